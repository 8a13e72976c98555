"""Recall: look-ups against a plain reading of the prompt, the step oracle, the length dial."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from outthink.core.errors import TaskError
from outthink.tasks.problem import Problem
from outthink.tasks.recall import Recall
from solution_sets import check_oracle, check_problem, check_rerendering

recall = Recall()


def look_up(prompt: str) -> list[str]:
    """The names and the number from question to answer, by searching the text again for each."""
    notes, _, question = prompt.partition("\n")
    found = [question.removeprefix("follow ")]
    while not found[-1].isdecimal():
        match = re.search(rf"\b{found[-1]}=(\w+)", notes)
        assert match is not None
        found.append(match[1])
    return found


@pytest.mark.parametrize("difficulty", [0.0, 0.3, 0.6, 1.0])
def test_gold_solutions_pass(difficulty: float) -> None:
    for seed in range(10):
        problem = recall.generate(seed, difficulty)
        check_problem(recall, problem)
        found = look_up(problem.prompt)
        assert problem.answer == found[-1]
        assert problem.steps == tuple(f"{a}={b}" for a, b in pairwise(found))


def accepted_solutions(problem: Problem) -> list[str]:
    found = look_up(problem.prompt)
    return ["\n".join([*(f"{a}={b}" for a, b in pairwise(found)), f"answer: {found[-1]}"])]


def test_oracle_accepts_exactly_the_chain() -> None:
    for seed in range(8):
        problem = recall.build(seed, 0.4, notes=9, hops=3)
        check_oracle(lambda partial, problem=problem: recall.extendable(problem, partial), accepted_solutions(problem))


def test_an_oracle_that_takes_any_note_is_caught() -> None:
    problem = recall.build(1, 0.4, notes=9, hops=3)
    notes = {f"{name}={value}" for name, value in problem.data["notes"]}

    def careless(partial: str) -> bool:
        *lines, last = partial.split("\n")
        return set(lines) <= notes and any(line.startswith(last) for line in (*notes, f"answer: {problem.answer}"))

    with pytest.raises(AssertionError, match="oracle says"):
        check_oracle(careless, accepted_solutions(problem))


def test_wrong_answers_and_foreign_prompts_are_rejected() -> None:
    problem = recall.build(5, 0.5, notes=20)
    values = {value for _, value in problem.data["notes"]} | {problem.data["start"], "", "x", "answer"}
    assert all(recall.check(problem, value) == (value == problem.answer) for value in values)
    assert recall.check(problem, f" {problem.answer} ")
    for prompt in (
        "",
        "notes: ab=12",
        "notes: ab=cd, cd=ab\nfollow ab",  # a ring
        "notes: ab=12, ab=13\nfollow ab",  # two notes of one name
        "notes: ab=cd, ef=cd, cd=12\nfollow ab",  # two names lead to one
        "notes: ab=cd\nfollow ab",  # leads nowhere
        "notes: ab=12\nfollow cd",
    ):
        assert recall.read(prompt) is None


def test_rerendering_keeps_the_problem() -> None:
    for seed in range(5):
        problem = recall.generate(seed, 0.6)
        check_rerendering(recall, problem, range(4))


def test_canonical_form_tells_problems_apart() -> None:
    base = recall.read("notes: ab=cd, cd=11, ef=gh, gh=12\nfollow ab")
    same = recall.read("notes: pq=12, rs=tu, tu=11, xy=pq\nfollow rs")
    others = [
        recall.read("notes: ab=cd, cd=11, ef=gh, gh=12\nfollow cd"),  # entered at its second link
        recall.read("notes: ab=cd, cd=11, ef=gh, gh=12\nfollow ef"),
        recall.read("notes: ab=cd, cd=11, ef=gh, gh=13\nfollow ab"),
        recall.read("notes: ab=11, cd=ef, ef=gh, gh=12\nfollow ab"),
    ]
    assert base and same and base.canonical == same.canonical
    assert len({base.canonical, *(other.canonical for other in others if other)}) == 5


def test_length_dial_reaches_thousands_of_tokens() -> None:
    lengths = [len(recall.build(3, 0.5, notes=notes, hops=6).prompt) for notes in (10, 100, 1000, 5000)]
    assert lengths == sorted(lengths) and lengths[-1] > 30_000
    long = recall.build(3, 0.5, notes=5000, hops=6)
    assert len(long.steps) == 6 and look_up(long.prompt)[-1] == long.answer
    sizes = [sum(len(recall.generate(seed, d).prompt) for seed in range(40)) / 40 for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes) and 50 < sizes[0] < 80 and 600 < sizes[-1] < 720


def test_bad_dials_are_refused() -> None:
    with pytest.raises(TaskError, match=r"Unknown dial 'size'.*notes, hops"):
        recall.build(1, 0.5, size=3)
    with pytest.raises(TaskError, match="Dial 'notes' is 0"):
        recall.build(1, 0.5, notes=0)
    with pytest.raises(TaskError, match=r"outside 0\.\.1"):
        recall.generate(1, 1.5)
