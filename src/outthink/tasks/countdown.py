"""Countdown: reach a target from given numbers with + - * and exact division, each number used at most once.

There are many solutions. Right answers are all expressions of the given numbers, none used more often than it is given,
that have the target's value and whose divisions are exact (Gandhi et al., Stream of search, 2024, has the same task).

Accepted steps: ``3 * 25 = 75 left 4 75`` joins two of the numbers left, a sum or product either way round, and lists
what is left then: the others in their order, the result last. Results are whole numbers above 0, and the target must
still be in reach, by an exact search over what is left. Once the target is among the numbers left, the answer may come:
the expression by which the steps made it, with no brackets but the needed ones.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from outthink.tasks.dials import geometric, linear, override, shuffled, whole, within
from outthink.tasks.expression import Tree, exact_value, leaves, parse_tree, show_tree
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for

MOST_NUMBERS, MAX_DIGITS, MAX_ANSWER = 6, 4, 200
_WALKS = 100
_READ = (
    re.compile(r"(?:reach|make) (?P<target>[0-9]{1,7}) (?:from|with|using) (?P<numbers>[0-9]+(?:[ ,]+[0-9]+)*)"),
    re.compile(r"(?:numbers) (?P<numbers>[0-9]+(?:[ ,]+[0-9]+)*)[\n;,.]? *target (?P<target>[0-9]{1,7})"),
)
_STYLES = ("reach {target} from {numbers}", "make {target} with {numbers}", "numbers {numbers}; target {target}")

Items = tuple[tuple[int, Tree], ...]


@dataclass(frozen=True)
class CountdownDials:
    """The settings of one problem; counts that are fractions are rounded up or down by chance.

    ``numbers``: how many are given (2.3..5 over difficulty 0..1). ``largest``: of the given numbers (20..50).
    ``largest_target``: (30..999, as far as the numbers allow). ``spare``: numbers that the gold solution leaves over
    (0..0.5). ``times``: the odds of a product against a sum or difference (0.3..1).
    """

    numbers: float
    largest: float
    largest_target: float
    spare: float
    times: float

    def __post_init__(self) -> None:
        within("numbers", self.numbers, 2, MOST_NUMBERS)
        within("largest", self.largest, 1, 10_000)
        within("largest_target", self.largest_target, 2, 1_000_000)
        within("spare", self.spare, 0, MOST_NUMBERS - 2)
        within("times", self.times, 0, 1000)

    @staticmethod
    def at(difficulty: float) -> CountdownDials:
        return CountdownDials(
            numbers=linear(2.3, 5, difficulty),
            largest=geometric(20, 50, difficulty),
            largest_target=geometric(30, 999, difficulty),
            spare=linear(0, 0.5, difficulty),
            times=linear(0.3, 1, difficulty),
        )


class Countdown:
    """Reach a target from given numbers; the dials are CountdownDials."""

    name = "countdown"
    summary = "Reach a target from given numbers with + - * /, each used at most once."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, numbers=6)``."""
        settings = override(CountdownDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        count = whole(rng, settings.numbers)
        used = max(2, count - whole(rng, settings.spare))
        while True:
            numbers = [1 + int(rng.random() * settings.largest) for _ in range(count)]
            tree = _draw_tree(rng, numbers, used, settings)
            if tree is not None:
                return self._problem(numbers, tree, None, seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        if len(answer) > MAX_ANSWER:
            return False
        tree = parse_tree(answer, "+-*/")
        if tree is None or Counter(leaves(tree)) - Counter(problem.data["numbers"]):
            return False
        return exact_value(tree) == problem.data["target"]

    def extendable(self, problem: Problem, partial: str) -> bool:
        target = problem.data["target"]

        # Where numbers are equal a line can mean several pairs: a state is the set of what may be left.
        def moves(state: frozenset[Items]) -> Iterator[tuple[str, frozenset[Items] | None]]:
            after: dict[str, set[Items]] = {}
            for items in state:
                for value, tree in items:
                    if value == target:
                        yield ANSWER + show_tree(tree), None
                for line, rest in _lines(items):
                    if reachable(tuple(sorted(value for value, _ in rest)), target):
                        after.setdefault(line, set()).add(rest)
            for line, rests in after.items():
                yield line, frozenset(rests)

        start = tuple((number, number) for number in problem.data["numbers"])
        return follows(partial, frozenset([start]), moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """The numbers in another order, told in other words."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        numbers: list[int] = shuffled(rng, problem.data["numbers"])
        tree = parse_tree(problem.data["expression"], "+-*/")
        assert tree is not None
        separator = ", " if rng.random() < 0.5 else " "
        style = _STYLES[int(rng.random() * len(_STYLES))]
        prompt = style.format(target=problem.data["target"], numbers=separator.join(map(str, numbers)))
        return self._problem(numbers, tree, prompt, problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of ``reach 24 from 4 6 8 2``, up to 6 numbers, where it has a solution; else None."""
        match = next((match for pattern in _READ if (match := pattern.fullmatch(prompt.strip().lower()))), None)
        if match is None:
            return None
        given = re.split("[ ,]+", match["numbers"])
        if len(given) > MOST_NUMBERS or any(len(number) > MAX_DIGITS for number in given) or not all(map(int, given)):
            return None
        numbers = [int(number) for number in given]
        tree = _search(tuple((number, number) for number in numbers), int(match["target"]))
        return None if tree is None else self._problem(numbers, tree, None, 0, 0.0)

    def _problem(self, numbers: Sequence[int], tree: Tree, prompt: str | None, seed: int, difficulty: float) -> Problem:
        left, steps = [_Number(number) for number in numbers], list[str]()
        target = _carry_out(tree, left, list(left), steps).value
        given = " ".join(map(str, numbers))
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=prompt if prompt is not None else _STYLES[0].format(target=target, numbers=given),
            steps=tuple(steps),
            answer=show_tree(tree),
            canonical=f"{target} {' '.join(map(str, sorted(numbers)))}",
            data={"numbers": list(numbers), "target": target, "expression": show_tree(tree)},
        )


@lru_cache(maxsize=1 << 17)
def reachable(numbers: tuple[int, ...], target: int) -> bool:
    """Whether ``target`` is one of the sorted ``numbers`` or can be made from some of them by the steps above."""
    if target in numbers:
        return True
    for i, j in combinations(range(len(numbers)), 2):
        small, large = numbers[i], numbers[j]
        results = {large + small, large * small, large - small}
        if large % small == 0:
            results.add(large // small)
        results.discard(0)
        if target in results:
            return True
        others = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
        if others and any(reachable(tuple(sorted((*others, result))), target) for result in results):
            return True
    return False


def _lines(items: Items) -> Iterator[tuple[str, Items]]:
    """Every step from ``items``, as its line and what is left then."""
    for i, j in combinations(range(len(items)), 2):
        others = items[:i] + items[i + 1 : j] + items[j + 1 :]
        listed = "".join(f"{value} " for value, _ in others)
        for (first, left), (second, right) in ((items[i], items[j]), (items[j], items[i])):
            for operator, result in _operations(first, second):
                line = f"{first} {operator} {second} = {result} left {listed}{result}"
                yield line, (*others, (result, (operator, left, right)))


def _operations(first: int, second: int) -> Iterator[tuple[str, int]]:
    yield "+", first + second
    yield "*", first * second
    if first > second:
        yield "-", first - second
    if first % second == 0:
        yield "/", first // second


def _search(items: Items, target: int) -> Tree | None:
    """An expression for ``target`` in as few steps as the first way found needs, or None."""
    if not reachable(tuple(sorted(value for value, _ in items)), target):
        return None
    for value, tree in items:
        if value == target:
            return tree
    found = (_search(rest, target) for _, rest in _lines(items))
    return next(tree for tree in found if tree is not None)


def _draw_tree(rng: random.Random, numbers: Sequence[int], used: int, dials: CountdownDials) -> Tree | None:
    """An expression of ``used`` of the numbers whose value is at most the largest target and not given already."""
    for _ in range(_WALKS):
        items: list[tuple[int, Tree]] = [(number, number) for number in shuffled(rng, numbers)[:used]]
        while len(items) > 1:
            second, right = items.pop(int(rng.random() * len(items)))
            first, left = items.pop(int(rng.random() * len(items)))
            if first < second:
                first, left, second, right = second, right, first, left
            operator = _draw_operator(rng, first, second, dials.times)
            value = exact_value((operator, first, second))
            assert value is not None
            items.append((value, (operator, left, right)))
        value, tree = items[0]
        if value <= dials.largest_target and value not in numbers:
            return tree
    return None


def _draw_operator(rng: random.Random, first: int, second: int, times: float) -> str:
    """An operator for two numbers, the larger first, that gives a new whole number above 0."""
    if first % second == 0 and 1 < second < first and rng.random() < 0.5:
        return "/"
    if second > 1 and rng.random() * (1 + times) < times:
        return "*"
    return "-" if first > second and rng.random() < 0.5 else "+"


def _carry_out(tree: Tree, left: list[_Number], given: list[_Number], steps: list[str]) -> _Number:
    """The result of ``tree``; appends its steps, inner ones first.

    Takes the numbers it uses from ``given``, those not yet used, and keeps ``left``, those not yet joined, up to date.
    """
    if isinstance(tree, int):
        used = next(number for number in given if number.value == tree)
        given.remove(used)
        return used
    operator = tree[0]
    first, second = _carry_out(tree[1], left, given, steps), _carry_out(tree[2], left, given, steps)
    value = exact_value((operator, first.value, second.value))
    assert value is not None
    left.remove(first)
    left.remove(second)
    left.append(_Number(value))
    listed = " ".join(str(number.value) for number in left)
    steps.append(f"{first.value} {operator} {second.value} = {value} left {listed}")
    return left[-1]


@dataclass(frozen=True, eq=False)
class _Number:
    """One of the numbers on the table; equal ones are told apart by identity."""

    value: int
