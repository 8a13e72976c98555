"""Mixtures of families, and problems of one split. The split is decided by a problem's canonical hash, never its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks.families import family_names, get_family
from outthink.tasks.problem import Problem, Split

_TRIES = 100_000


@dataclass(frozen=True)
class Suite:
    """Families with their shares of the mixture, at difficulties even between ``easiest`` and ``hardest``.

    ``rerendered``: every problem is told in another way that means the same.
    """

    name: str
    shares: tuple[tuple[str, float], ...]
    easiest: float = 0.0
    hardest: float = 1.0
    rerendered: bool = False

    def stream(self, split: Split, seed: int) -> Iterator[Problem]:
        """Problems of ``split`` without end; a pure function of its arguments."""
        rng = random.Random(seed)
        names, weights = zip(*self.shares, strict=True)
        while True:
            [name] = rng.choices(names, weights)
            difficulty = round(self.easiest + (self.hardest - self.easiest) * rng.random(), 2)
            problem = draw(name, rng.getrandbits(48), difficulty, split)
            yield problem.rerender(rng.getrandbits(48)) if self.rerendered else problem

    def sample(self, split: Split, n: int, seed: int) -> list[Problem]:
        """``n`` problems of which no two have the same canonical form. Raises TaskError where there are not as many."""
        return _distinct(self.stream(split, seed), n, f"suite '{self.name}'")


def draw(family: str, seed: int, difficulty: float, split: Split) -> Problem:
    """The first problem of ``split`` at or after ``seed``. Raises TaskError where none comes up."""
    source = get_family(family)
    for step in range(_TRIES):
        problem = source.generate(seed + step, difficulty)
        if problem.split == split:
            return problem
    raise TaskError(
        f"'{family}' at difficulty {difficulty} has no {split} problem in {_TRIES:,} draws: make it harder."
    )


def draw_problems(family: str, difficulty: float, split: Split, n: int, seed: int) -> list[Problem]:
    """``n`` problems of one family and difficulty, of which no two have the same canonical form."""
    rng = random.Random(f"{family}/{difficulty}/{split}/{seed}")
    stream = (draw(family, rng.getrandbits(48), difficulty, split) for _ in iter(int, 1))
    return _distinct(stream, n, f"'{family}' at difficulty {difficulty}")


def _distinct(stream: Iterator[Problem], n: int, what: str) -> list[Problem]:
    found: dict[str, Problem] = {}
    for _ in range(200 * n + 1000):
        if len(found) == n:
            return list(found.values())
        problem = next(stream)
        found.setdefault(problem.canonical_key, problem)
    raise TaskError(
        f"{what} has fewer than {n} distinct problems of this split ({len(found)} came up): make it harder."
    )


def suite_names() -> list[str]:
    """Every suite; the name of a family is a suite too."""
    return [*_SUITES, "outthink-core", "outthink-core-functional", *(n for n in family_names() if n not in _SUITES)]


def get_suite(name: str) -> Suite:
    """The suite called ``name``, or the one of a single family over all difficulties."""
    core = tuple((family, CORE_SHARES.get(family, 1.0)) for family in family_names() if family in CORE_SHARES)
    if name == "outthink-core":
        return Suite(name, core)
    if name == "outthink-core-functional":
        return Suite(name, core, rerendered=True)
    if name in _SUITES:
        return _SUITES[name]
    if name in family_names():
        return Suite(name, ((name, 1.0),))
    raise UnknownNameError("suite", name, suite_names())


CORE_SHARES = {
    "algorithms": 1.0,
    "arithmetic": 1.0,
    "calculator": 1.0,
    "constraints": 1.0,
    "countdown": 1.0,
    "deduction": 1.0,
    "paths": 1.0,
    "procedures": 1.0,
    "recall": 1.0,
    "sequences": 1.0,
}
_SUITES = {"arithmetic": Suite("arithmetic", (("arithmetic", 1.0),))}
