"""Constraints: small puzzles in words whose clues leave exactly one solution.

``houses``: each word of each group belongs to one of the houses 1..n, no two words of a group to the same; clues place
words and relate them (``red just left of ann``, ``cat with tea``). The answer lists the houses: ``bob red, ann blue``.
``guests``: who comes and who stays, a satisfiability problem in words (``if ann comes then bob stays``). The
answer lists those who come, or says nobody.

Every clue is needed, save for those that the dial ``spare`` adds. Uniqueness is proved by counting worlds, and again
by z3 in ``puzzle_proof``.

Accepted steps: a line ``ann 2`` or ``ann comes`` states the value of one word in the solution, each word once, in
any order; the answer comes after all of them. The gold steps find words in an order in which few clues at a time are
enough.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks.dials import linear, override, shuffled, whole, within
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for
from outthink.tasks.puzzle_draw import POOLS, draw_clues, draw_groups
from outthink.tasks.puzzle_proof import formula
from outthink.tasks.puzzle_text import read_answer, read_puzzle, read_stated, tell, tell_answer
from outthink.tasks.puzzles import FORMS, MOST_WORLDS, Clue, Kind, Puzzle, num_worlds
from outthink.tasks.smt import Smt

KINDS: tuple[Kind, ...] = ("houses", "guests")


@dataclass(frozen=True)
class ConstraintsDials:
    """Over difficulty 0..1: ``houses`` 2.3..4 with ``groups`` 1.3..3 of words, or ``guests`` 2.5..8; ``direct``
    0.6..0.1, the share of clues that speak of one word only; ``spare`` 1..0, clues beyond those needed.

    ``kind`` is houses, guests or None for one drawn by chance. Counts may be fractional and are rounded by chance.
    """

    houses: float
    groups: float
    guests: float
    direct: float
    spare: float
    kind: Kind | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise UnknownNameError("kind of puzzle", self.kind, KINDS)
        within("houses", self.houses, 2, 6)
        within("groups", self.groups, 1, len(POOLS))
        within("guests", self.guests, 2, len(POOLS[0]))
        within("direct", self.direct, 0, 1)
        within("spare", self.spare, 0, 8)
        largest = num_worlds("houses", -int(-self.groups // 1), -int(-self.houses // 1))
        if largest > MOST_WORLDS:
            raise TaskError(
                f"{self.groups:g} groups on {self.houses:g} houses have {largest:,} worlds: at most 2 million."
            )

    @staticmethod
    def at(difficulty: float) -> ConstraintsDials:
        """The dials of a difficulty in 0..1."""
        return ConstraintsDials(
            houses=linear(2.3, 4, difficulty),
            groups=linear(1.3, 3, difficulty),
            guests=linear(2.5, 8, difficulty),
            direct=linear(0.6, 0.1, difficulty),
            spare=linear(1, 0, difficulty),
        )


class Constraints:
    """Zebra-style puzzles and satisfiability in words; the dials are ConstraintsDials."""

    name = "constraints"
    summary = "Find the one arrangement that all clues allow."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: Any) -> Problem:
        """The problem of this seed with dials set by keyword, as in ``build(7, kind="houses", houses=5)``."""
        settings = override(ConstraintsDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        kind = settings.kind or KINDS[int(rng.random() * len(KINDS))]
        if kind == "houses":
            size, num_groups = whole(rng, settings.houses), whole(rng, settings.groups)
        else:
            size, num_groups = whole(rng, settings.guests), 1
        groups = draw_groups(rng, kind, num_groups, size)
        puzzle = draw_clues(rng, Puzzle(kind, groups, ()), settings.direct, whole(rng, settings.spare))
        return self._problem(puzzle, seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether each house has the right words, in any order, or those who come are named, in any order."""
        if "who comes?" in problem.prompt:
            return sorted(answer.replace(",", " ").split()) == sorted(problem.answer.split())
        return _houses(answer) == _houses(problem.answer)

    def extendable(self, problem: Problem, partial: str) -> bool:
        solution: Mapping[str, str] = problem.data["solution"]

        def moves(left: frozenset[str]) -> Iterator[tuple[str, frozenset[str] | None]]:
            for word in left:
                yield f"{word} {solution[word]}", left - {word}
            if not left:
                yield ANSWER + problem.answer, None

        return follows(partial, frozenset(solution), moves)

    def smt(self, problem: Problem) -> Smt:
        """The clues as a formula, and how answers and steps say values."""
        puzzle = read_puzzle(problem.prompt)
        assert puzzle is not None, "a problem of this family states a puzzle"
        return Smt(formula(puzzle), functools.partial(read_answer, puzzle), functools.partial(read_stated, puzzle))

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """Other words, and groups, words, clues and the exchangeable places in a clue shuffled."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        puzzle = read_puzzle(problem.prompt)
        assert puzzle is not None, "a problem of this family states a puzzle"
        old = [shuffled(rng, group) for group in shuffled(rng, puzzle.groups)]
        groups = draw_groups(rng, puzzle.kind, len(old), len(old[0]))
        renamed = {
            word: new
            for group, others in zip(old, groups, strict=True)
            for word, new in zip(group, others, strict=True)
        }
        clues = []
        for form, words in shuffled(rng, puzzle.clues):
            roles = FORMS[puzzle.kind][form].roles
            order = sorted(range(len(words)), key=lambda place: (roles[place], rng.random()))
            clues.append(Clue(form, tuple(renamed.get(words[place], words[place]) for place in order)))
        return self._problem(Puzzle(puzzle.kind, groups, tuple(clues)), problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a prompt with exactly one solution, else None."""
        puzzle = read_puzzle(prompt)
        return None if puzzle is None or puzzle.solve() is None else self._problem(puzzle, 0, 0.0)

    def _problem(self, puzzle: Puzzle, seed: int, difficulty: float) -> Problem:
        solution = puzzle.solve()
        assert solution is not None, "the clues leave exactly one world"
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=tell(puzzle),
            steps=tuple([f"{word} {solution[word]}" for word in puzzle.derivation(solution)]),
            answer=tell_answer(puzzle, solution),
            canonical=puzzle.canonical(),
            data={"solution": solution},
        )


def _houses(answer: str) -> list[list[str]]:
    return [sorted(house.split()) for house in answer.split(",")]
