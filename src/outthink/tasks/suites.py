"""Mixtures of families, and problems of one split, which a problem's canonical hash decides and its seed does not."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks.families import family_names, get_family
from outthink.tasks.problem import Problem, Split, check_difficulty

Found = Callable[[int], None]
"""Told how many problems have been found so far: drawing many takes a while."""
MOST_DRAWS = 10_000
CORE = (
    "algorithms",
    "arithmetic",
    "calculator",
    "constraints",
    "countdown",
    "deduction",
    "paths",
    "procedures",
    "recall",
    "sequences",
)
FUNCTIONAL = "-functional"


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

    def __post_init__(self) -> None:
        if not self.shares or min(share for _, share in self.shares) <= 0:
            raise TaskError(f"Suite '{self.name}' needs families, each with a share above 0; it has {self.shares}.")
        if check_difficulty(self.easiest) > check_difficulty(self.hardest):
            raise TaskError(f"Suite '{self.name}' has easiest={self.easiest} above hardest={self.hardest}.")

    def stream(self, split: Split, seed: int) -> Iterator[Problem]:
        """Problems of ``split`` without end; a pure function of its arguments. Difficulties are whole hundredths."""
        rng = random.Random(seed)
        names, weights = zip(*self.shares, strict=True)
        while True:
            [name] = rng.choices(names, weights)
            difficulty = round(self.easiest + (self.hardest - self.easiest) * rng.random(), 2)
            own_seed = rng.getrandbits(48)
            problem = draw(name, own_seed, difficulty, split)
            yield problem.rerender(own_seed) if self.rerendered else problem

    def sample(self, split: Split, n: int, seed: int, found: Found = lambda _: None) -> list[Problem]:
        """``n`` problems of which no two have the same canonical form. Raises TaskError where there are not as many."""
        return _distinct(self.stream(split, seed), n, f"Suite '{self.name}'", found)


def functional(suite: Suite) -> Suite:
    """``suite`` with the same problems, in the same order, told in another way that means the same."""
    return replace(suite, name=suite.name + FUNCTIONAL, rerendered=True)


def draw(family: str, seed: int, difficulty: float, split: Split) -> Problem:
    """The first problem of ``split`` among those of the sub-seeds of ``seed``, 48 bits each.

    Raises TaskError where none comes up in MOST_DRAWS draws.
    """
    source = get_family(family)
    for attempt in range(MOST_DRAWS):
        problem = source.generate(_sub_seed(seed, attempt), difficulty)
        if problem.split == split:
            return problem
    raise TaskError(
        f"'{family}' at difficulty {difficulty} has no {split} problem in {MOST_DRAWS:,} draws: choose another one."
    )


def draw_problems(
    family: str, difficulty: float, split: Split, n: int, seed: int, found: Found = lambda _: None
) -> list[Problem]:
    """``n`` problems of one family and difficulty, of which no two have the same canonical form.

    Raises TaskError where there are not as many.
    """
    stream = (draw(family, _sub_seed(seed, index), difficulty, split) for index in count())
    return _distinct(stream, n, f"'{family}' at difficulty {difficulty}", found)


def _distinct(stream: Iterator[Problem], n: int, what: str, found: Found) -> list[Problem]:
    drawn: dict[str, Problem] = {}
    misses = 0
    while len(drawn) < n:
        problem = next(stream)
        misses = misses + 1 if problem.canonical_key in drawn else 0
        drawn.setdefault(problem.canonical_key, problem)
        found(len(drawn))
        # With one of equally likely problems unseen, so many misses in a row have a chance below exp(-10).
        if misses > 10 * (len(drawn) + 10):
            raise TaskError(f"{what} has fewer than {n} distinct problems of this split: {len(drawn)} came up.")
    return list(drawn.values())


def _sub_seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=6).digest())


def suite_names() -> list[str]:
    """Every suite; the name of a family is the suite of its problems over all difficulties."""
    return ["outthink-core", *family_names(), *(name + FUNCTIONAL for name in ("outthink-core", *family_names()))]


def get_suite(name: str) -> Suite:
    """The suite called ``name``, with ``-functional`` its problems re-rendered; an UnknownNameError lists the known."""
    plain = name.removesuffix(FUNCTIONAL)
    if plain not in ("outthink-core", *family_names()):
        raise UnknownNameError("suite", name, suite_names())
    suite = Suite(plain, tuple((family, 1.0) for family in (CORE if plain == "outthink-core" else (plain,))))
    return suite if plain == name else functional(suite)
