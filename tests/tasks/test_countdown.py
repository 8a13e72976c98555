"""Countdown: search, oracle and checker against plain enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations_with_replacement, product

import pytest

from outthink.core.errors import TaskError
from outthink.tasks.countdown import Countdown, reachable
from outthink.tasks.problem import Problem
from solution_sets import check_oracle

countdown = Countdown()
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}

Item = tuple[Fraction, str, int]  # value, expression, how strongly its operator binds


def results(a: Item, b: Item) -> Iterator[tuple[str, Item]]:
    """Every operation on two items with a whole result above 0, and the item it makes."""
    for sign in "+-*/":
        value = {"+": a[0] + b[0], "-": a[0] - b[0], "*": a[0] * b[0], "/": a[0] / b[0]}[sign]
        if value <= 0 or value.denominator > 1:
            continue
        left = f"({a[1]})" if a[2] < RANK[sign] else a[1]
        right = f"({b[1]})" if b[2] <= RANK[sign] else b[1]
        yield f"{a[0]} {sign} {b[0]} = {value}", (value, f"{left} {sign} {right}", RANK[sign])


def walks(items: list[Item], lines: list[str], target: int) -> Iterator[str]:
    """All accepted solutions: go everywhere, keep what ends at the target."""
    for item in items:
        if item[0] == target:
            yield "\n".join([*lines, f"answer: {item[1]}"])
    for i, j in product(range(len(items)), repeat=2):
        if i != j:
            others = [item for place, item in enumerate(items) if place not in (i, j)]
            for line, made in results(items[i], items[j]):
                left = [*others, made]
                yield from walks(left, [*lines, f"{line} left {' '.join(str(item[0]) for item in left)}"], target)


def start(numbers) -> list[Item]:
    return [(Fraction(number), str(number), 3) for number in numbers]


def accepted_solutions(problem: Problem) -> set[str]:
    question, _, numbers = problem.prompt.partition(" from ")
    return set(walks(start(numbers.split(" ")), [], int(question.removeprefix("reach "))))


def test_the_oracle_accepts_exactly_the_ways_to_the_target() -> None:
    for seed in range(6):
        problem = countdown.build(seed, 0.5, numbers=3, largest=12, spare=seed % 2)
        solutions = accepted_solutions(problem)
        assert problem.solution in solutions
        check_oracle(lambda partial, problem=problem: countdown.extendable(problem, partial), solutions)


def test_equal_numbers_are_told_apart() -> None:
    for prompt in ("reach 9 from 3 3 3", "reach 4 from 2 2 8", "reach 6 from 2 4 2"):
        problem = countdown.read(prompt)
        assert problem is not None and problem.solution in accepted_solutions(problem)
        check_oracle(
            lambda partial, problem=problem: countdown.extendable(problem, partial), accepted_solutions(problem)
        )


def test_gold_keeps_equal_numbers_apart() -> None:
    """A result that equals a given number is not mistaken for it: the lines after it belong to the answer."""
    met = 0
    for seed in range(400):
        problem = countdown.build(seed, 0.5, numbers=5, largest=7, largest_target=60, spare=0)
        left = [step.split(" left ")[1].split() for step in problem.steps]
        met += any(len(set(numbers)) < len(numbers) for numbers in left)
        assert countdown.extendable(problem, problem.solution), problem.solution
    assert met > 100


def test_an_oracle_that_forgets_the_target_is_caught() -> None:
    problem = countdown.build(3, 0.5, numbers=3, spare=0)
    solutions = accepted_solutions(problem)
    anywhere = {text for target in range(400) for text in walks(start(problem.data["numbers"]), [], target)}

    def oracle(partial: str) -> bool:
        head, answer, _ = partial.partition("answer")
        return any(text.startswith(partial if not answer else head) for text in anywhere)

    with pytest.raises(AssertionError, match="oracle says"):
        check_oracle(oracle, solutions)


def test_search_finds_exactly_what_is_in_reach() -> None:
    for numbers in combinations_with_replacement((1, 2, 3, 5, 8), 3):
        found = {int(text.split(" left ")[-1].split("\n")[0].split()[-1]) for text in everything(numbers)}
        for target in range(1, 150):
            assert reachable(numbers, target) == (target in found or target in numbers)
            problem = countdown.read(f"reach {target} from {' '.join(map(str, numbers))}")
            assert (problem is not None) == reachable(numbers, target)
            assert problem is None or countdown.check(problem, problem.answer)


def everything(numbers) -> Iterator[str]:
    """The lines of every step that can be made from ``numbers``, one after another."""
    pending = [start(numbers)]
    while pending:
        items = pending.pop()
        for i, j in product(range(len(items)), repeat=2):
            if i != j:
                others = [item for place, item in enumerate(items) if place not in (i, j)]
                for line, made in results(items[i], items[j]):
                    yield f"{line} left {made[0]}"
                    pending.append([*others, made])


def test_answers() -> None:
    problem = countdown.read("reach 79 from 3, 25, 4, 75")
    assert problem is not None
    for answer in ("75 + 4", "4+75", "(3 * 25) + 4", " 25*3+4 "):
        assert countdown.check(problem, answer), answer
    wrong = ("79", "75 + 4 = 79", "75 + 2 + 2", "75 + 4 + 0", "3 + 76", "75 +", "4 * 25 - 21", "", "75 - -4", "(" * 90)
    for answer in (*wrong, "1" * 300, "75 + 4 # yes", "__import__('os')", "3 * 25 + 4 * 25 / 25"):
        assert not countdown.check(problem, answer), answer
    negative = countdown.read("reach 5 from 3 10 2")
    assert negative is not None and countdown.check(negative, "10 - 3 - 2")
    assert countdown.check(negative, "3 - 10 + 2 * 6") is False
    below = countdown.read("reach 9 from 3 10 2")
    assert below is not None and countdown.check(below, "2 - 3 + 10")  # -1 on the way
    inexact = countdown.read("reach 6 from 3 2 4")
    assert inexact is not None and not countdown.check(inexact, "3 / 2 * 4") and countdown.check(inexact, "3 * 4 / 2")


def test_foreign_prompts_are_not_read() -> None:
    for text in (
        "reach 5",
        "reach 5 from",
        "reach x from 3 4",
        "reach 7 from 0 7",
        "reach 9 from 1 2",
        "reach 5 from 2.5 2",
    ):
        assert countdown.read(text) is None, text
    assert countdown.read("reach 8 from " + "1 " * 7 + "1") is None
    assert countdown.read("reach 123456 from 12345 5") is None
    problem = countdown.read("numbers 4, 6; target 24")
    assert problem is not None and problem.prompt == "reach 24 from 4 6"


def test_dials() -> None:
    for seed in range(20):
        problem = countdown.build(seed, 0.2, numbers=6, largest=5, largest_target=100, spare=2)
        assert len(problem.data["numbers"]) == 6 and max(problem.data["numbers"]) <= 5
        assert len(problem.steps) == 3 and problem.data["target"] <= 100
        assert len(problem.steps[-1].split(" left ")[1].split()) == 3
    with pytest.raises(TaskError, match="Dial 'numbers' is 9"):
        countdown.build(1, 0.5, numbers=9)
