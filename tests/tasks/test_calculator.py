"""Calculator: stories read by hand, the oracle against all orders of calls, the calculator's bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.errors import TaskError
from outthink.tasks.calculator import Calculator, fill_in, run_calculator
from outthink.tasks.problem import Problem
from outthink.tasks.stories import VERBS
from solution_sets import check_oracle

calculator = Calculator()
PARTS = {"half": 2, "a third": 3, "a quarter": 4}


def either(sign: str, first: object, second: object) -> set[str]:
    return {f"{first}{sign}{second}", f"{second}{sign}{first}"}


def facts(prompt: str) -> tuple[dict[str, tuple[set[str], list[str]]], list[str]]:
    """By name: the calls that work a quantity out, with names in braces, and the names; and who is asked about."""
    *sentences, question = prompt.split(". ")
    everyone = {sentence.split(" ")[0] for sentence in sentences}
    told = {}
    for sentence in sentences:
        name, _, rest = sentence.split(" ", 2)
        words = rest.split(" ")
        people = [word for word in words if word in everyone]
        braced = ["{" + person + "}" for person in people]
        numbers = [int(word) for word in words if word.isdigit()]
        if " boxes of " in rest:
            calls = either("*", *numbers[:2])
            for more in numbers[2:]:
                calls = {text for call in calls for text in either("+", call, more)}
        elif "together" in words:
            calls = either("+", *braced)
        elif "times" in words:
            calls = either("*", numbers[0], braced[0])
        elif "more" in words:
            calls = either("+", numbers[0], braced[0])
        elif "fewer" in words:
            calls = {f"{braced[0]}-{numbers[0]}"}
        elif part := next((divisor for text, divisor in PARTS.items() if rest.startswith(text)), None):
            calls = {f"{braced[0]}/{part}"}
        else:
            calls = {str(numbers[0])}
        told[name] = calls, people
    asked = [word for word in question.rstrip("?").split(" ") if word in told]
    if len(asked) == 2:
        told["together"] = either("+", *("{" + person + "}" for person in asked)), asked
        asked = ["together"]
    return told, asked


def solutions_from(told, asked: str, values: dict[str, int], lines: list[str]) -> Iterator[str]:
    if asked in values:
        yield "\n".join([*lines, f"answer: {values[asked]}"])
    for name, (calls, people) in told.items():
        if name not in values and all(person in values for person in people):
            for call in calls:
                text = call.format(**values)
                value = eval(text)
                assert value == int(value)
                line = f"{name}: <calc>{text}</calc> = {int(value)}"
                yield from solutions_from(told, asked, {**values, name: int(value)}, [*lines, line])


def accepted_solutions(problem: Problem) -> set[str]:
    told, [asked] = facts(problem.prompt)
    values = {name: int(next(iter(calls))) for name, (calls, _) in told.items() if next(iter(calls)).isdigit()}
    return set(solutions_from(told, asked, values, []))


def test_the_oracle_accepts_exactly_the_orders_of_calls() -> None:
    for seed in range(12):
        problem = calculator.build(seed, 0.5, hops=1 + seed % 2, distractors=seed % 3 == 0, digits=1)
        solutions = accepted_solutions(problem)
        assert problem.solution in solutions
        check_oracle(lambda partial, problem=problem: calculator.extendable(problem, partial), solutions)


def test_an_oracle_without_distractors_is_caught() -> None:
    problem = calculator.build(3, 0.5, hops=2, distractors=1, digits=1)
    with pytest.raises(AssertionError, match="rejected"):
        check_oracle(lambda partial: f"{problem.solution}\n".startswith(partial), accepted_solutions(problem))


def test_gold_of_long_stories_is_right() -> None:
    for seed in range(300):
        problem = calculator.generate(seed, (seed % 11) / 10)
        told, [asked] = facts(problem.prompt)
        values = {name: int(next(iter(calls))) for name, (calls, _) in told.items() if next(iter(calls)).isdigit()}
        for step in problem.steps:
            match = re.fullmatch(r"([a-z]+): <calc>(.*)</calc> = (\d+)", step)
            assert match is not None
            calls, people = told[match[1]]
            assert match[2] in {call.format(**{person: values[person] for person in people}) for call in calls}
            assert run_calculator(match[2]) == match[3]
            values[match[1]] = int(match[3])
        assert problem.answer == str(values[asked])


def test_a_story_is_read() -> None:
    problem = calculator.read(
        "Bob has three times as many as Ann. Ann has 4 boxes of 6 pens and 2 more. "
        "Cai has half as many pens as Bob. How many pens do Ann and Cai have together?"
    )
    assert problem is not None
    assert problem.solution == (
        "ann: <calc>4*6+2</calc> = 26\nbob: <calc>26*3</calc> = 78\ncai: <calc>78/2</calc> = 39\n"
        "together: <calc>26+39</calc> = 65\nanswer: 65"
    )
    assert problem.check("65") and not problem.check("78") and not problem.check("65 pens")


@pytest.mark.parametrize(
    "text",
    [
        "how many pens does ann have?",
        "ann has 3 pens. how many pens does bob have?",
        "ann has 3 more than bob. bob has 2 more than ann. how many pens does ann have?",
        "ann has 3 pens. ann has 4 pens. how many pens does ann have?",
        "ann has 7 pens. bob has half as many as ann. how many pens does bob have?",
        "ann has 3 pens. bob has 5 fewer than ann. how many pens does bob have?",
        "ann has 3 pens. bob eats 5 more than ann. how many pens does bob have?",
        "ann has 3 pens. together has 3 pens. how many pens does ann have?",
        "ann has 999999 boxes of 999999 pens. how many pens does ann have?",
        "ann has 3 pens. how many pens do ann and bob have?",
    ],
)
def test_stories_without_an_answer_are_not_read(text: str) -> None:
    assert calculator.read(text) is None


def test_rerendering_changes_names_order_and_wording() -> None:
    problem = calculator.generate(5, 0.6)
    told = [problem.rerender(seed) for seed in range(40)]
    assert {again.canonical for again in told} == {problem.canonical}
    assert {again.answer for again in told} == {problem.answer} and len({again.prompt for again in told}) == 40
    assert sum(any(f" {verb} " in again.prompt for again in told) for verb, _, _ in VERBS) == len(VERBS)


def test_canonical_forms_differ_where_meaning_does() -> None:
    stories = [
        "ann has 3 pens. bob has 4 more than ann. how many pens does bob have?",
        "ann has 3 pens. bob has 4 more than ann. how many pens does ann have?",
        "ann has 4 pens. bob has 3 more than ann. how many pens does bob have?",
        "ann has 3 pens. bob has 4 times as many as ann. how many pens does bob have?",
        "ann has 3 pens. bob has 4 more than ann. how many pens do ann and bob have together?",
        "ann has 3 pens. bob has 4 more than ann. cai has 3 pens. how many pens does bob have?",
        "ann has 3 pens. bob has 14 pens. cai has as many as ann and bob together. how many pens does cai have?",
        "ann has 3 boxes of 4 pens. how many pens does ann have?",
        "ann has 4 boxes of 3 pens. how many pens does ann have?",
    ]
    problems = [calculator.read(story) for story in stories]
    assert len({problem.canonical for problem in problems if problem is not None}) == len(stories)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=200)
@given(st.text("0123456789+-*/() ", max_size=20))
def test_the_calculator_computes_or_says_error(text: str) -> None:
    shown = run_calculator(text)
    assert re.fullmatch(r"-?\d+|error", shown)
    if shown != "error":
        assert int(shown) == eval(re.sub(r"\d+", lambda number: str(int(number[0])), text.strip()))


def test_the_calculator_is_bounded() -> None:
    assert run_calculator("12*7") == "84" and run_calculator("(5-8)*4/6") == "-2"
    for text in ("", "7/0", "7/2", "2**9", "1 2", "len(x)", "9" * 99, "(" * 99, "1+" * 60 + "1", "9.5", "²"):
        assert run_calculator(text) == "error", text
    assert run_calculator("9*" * 49 + "9") == str(9**50)


def test_filling_in() -> None:
    assert fill_in("bob: <calc>3*7</calc>") == "bob: <calc>3*7</calc> = 21"
    assert fill_in("a: <calc>1+1</calc> = 2\nb: <calc>2*2</calc>").endswith("<calc>2*2</calc> = 4")
    assert fill_in("bob: <calc>3*x</calc>") == "bob: <calc>3*x</calc> = error"
    for text in ("", "bob", "<calc>3*7", "3*7</calc>", "<calc>3*7</calc> = 21"):
        assert fill_in(text) == text
    problem = calculator.generate(8, 0.5)
    partial = ""
    for step in problem.steps:
        partial += fill_in(step[: step.index(" = ")]) + "\n"
    assert partial == problem.solution[: -len(f"answer: {problem.answer}")]


def test_long_stories_stay_within_bounds() -> None:
    """At the ends of all dials, where counts grow largest."""
    for seed in range(1500):
        problem = calculator.build(seed, 1.0, hops=8, distractors=4, digits=4, factor=50)
        assert problem.check(problem.answer) and len(problem.steps) == 8
        assert calculator.read(problem.prompt) is not None


def test_dials() -> None:
    for seed in range(20):
        problem = calculator.build(seed, 0.5, hops=6, digits=4, shuffle=0, distractors=0)
        assert len(problem.steps) == 6
        assert calculator.generate(seed, 0.0).prompt.count(".") == 1
    with pytest.raises(TaskError, match="Dial 'hops' is 50"):
        calculator.build(1, 0.5, hops=50)
