"""Sequences: find the rule of an integer sequence and state it as a program of `programs`.

A right answer is any program that gives the terms shown and HIDDEN further ones, each from those before it; the first
one or two are given where the program uses a or b.

Accepted steps: a line ``less 2*a: 1 1 1`` takes one term of a rule off the sequence and states what is left, from the
first position where all that was taken off is defined. A rule is a program in the normal form of `rules` that the terms
shown and hidden determine; its terms other than its constant are taken off in any order, then it is the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outthink.tasks.dials import geometric, linear, override, whole, within
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for
from outthink.tasks.programs import parse_program, run_program
from outthink.tasks.rules import (
    CONSTANT,
    Rule,
    Term,
    continue_rule,
    determined_rules,
    residual,
    rule_order,
    show_rule,
    show_term,
    simplest_rules,
)

HIDDEN, LARGEST_TERM = 6, 100_000
# Kinds of rules by level, one letter a term: a and A (coefficient 1, another one), b, s (n*n), n, m (n mod 2..4), 1.
LEVELS = (
    ("n1",),
    ("A1", "s1", "an", "ab", "m1"),
    ("An", "an1", "am1", "sn1", "ab1", "Ab"),
    ("An1", "Ab1", "Am1", "abn", "sm1"),
)
STYLES = ("sequence {}", "find the rule of {}", "what comes next: {}", "rule: {}")
_READ = re.compile(
    r"(?:(?:sequence|find the rule of|what comes next:?|rule:?) )?(-?[0-9]{1,9}(?:[ ,]+-?[0-9]{1,9})+)(?:,? ?\.\.\.)?"
)


@dataclass(frozen=True)
class SequencesDials:
    """The settings of one problem; fractions are rounded up or down by chance.

    ``level``: an index of LEVELS (0.3..3 over difficulty 0..1). ``size``: of numbers in the rule and of the first terms
    (20..30). ``shown``: how many terms are (7..8).
    """

    level: float
    size: float
    shown: float

    def __post_init__(self) -> None:
        within("level", self.level, 0, len(LEVELS) - 1)
        within("size", self.size, 3, 100)
        within("shown", self.shown, 7, 20)

    @staticmethod
    def at(difficulty: float) -> SequencesDials:
        return SequencesDials(linear(0.3, 3, difficulty), geometric(20, 30, difficulty), linear(7, 8, difficulty))


class Sequences:
    """Rules of integer sequences; the dials are SequencesDials."""

    name = "sequences"
    summary = "Find the rule of an integer sequence, as a small program."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, shown=12)``."""
        settings = override(SequencesDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        count = whole(rng, settings.shown)
        while True:
            rule = _draw_rule(rng, settings)
            first = [_draw_number(rng, settings.size) for _ in range(rule_order(rule))]
            terms = continue_rule(rule, first, count - len(first) + HIDDEN)
            problem = self._problem(terms[:count], None, seed, difficulty, terms)
            if problem is not None:
                return problem

    def check(self, problem: Problem, answer: str) -> bool:
        program = parse_program(answer)
        terms = [*problem.data["shown"], *problem.data["hidden"]]
        return program is not None and run_program(program, terms, len(terms)) == terms

    def extendable(self, problem: Problem, partial: str) -> bool:
        shown = problem.data["shown"]
        rules = determined_rules((*shown, *problem.data["hidden"]))

        def moves(peeled: frozenset[Term]) -> Iterator[tuple[str, frozenset[Term] | None]]:
            for rule in rules:
                if not peeled.issubset(rule):
                    continue
                left = [term for term in rule if term not in peeled and term[0] != CONSTANT]
                if not left:
                    yield ANSWER + show_rule(rule), None
                for term in left:
                    yield _line(shown, [*peeled, term]), peeled | {term}

        return follows(partial, frozenset(), moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """In other words, with commas or without."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        listed = (", " if rng.random() < 0.5 else " ").join(map(str, problem.data["shown"]))
        prompt = STYLES[int(rng.random() * len(STYLES))].format(listed)
        again = self._problem(problem.data["shown"], prompt, problem.seed, problem.difficulty)
        assert again is not None
        return again

    def read(self, prompt: str) -> Problem | None:
        """The problem of a sequence of 4 or more terms that has a rule with a term to spare, else None."""
        match = _READ.fullmatch(prompt.strip().lower())
        if match is None or len(match[1]) > 400:
            return None
        terms = [int(term) for term in re.split("[ ,]+", match[1])]
        return self._problem(terms, None, 0, 0.0) if len(terms) >= 4 else None

    def _problem(
        self,
        shown: Sequence[int],
        prompt: str | None,
        seed: int,
        difficulty: float,
        terms: Sequence[int] | None = None,
    ) -> Problem | None:
        """The problem of the simplest rule of ``shown``; None where there is none or it leads away from ``terms``.

        Where several rules are equally simple they must go on alike, and the first of them is gold's.
        """
        if any(abs(term) > LARGEST_TERM for term in shown):
            return None
        rules = simplest_rules(shown)
        continued = [continue_rule(rule, shown, HIDDEN) for rule in rules]
        if not rules or any(other != continued[0] for other in continued) or terms not in (None, continued[0]):
            return None
        if prompt is None and len(set(shown)) == 1:
            return None
        rule = rules[0]
        peeled = [term for term in rule if term[0] != CONSTANT]
        first = " ".join(map(str, shown[: rule_order(rule)]))
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=prompt if prompt is not None else STYLES[0].format(" ".join(map(str, shown))),
            steps=tuple(_line(shown, peeled[: index + 1]) for index in range(len(peeled))),
            answer=show_rule(rule),
            canonical=f"{show_rule(rule)} from {first}",
            data={"shown": list(shown), "hidden": continued[0][len(shown) :]},
        )


def _line(shown: Sequence[int], peeled: Sequence[Term]) -> str:
    """The step that takes off the last of ``peeled``."""
    return f"less {show_term(peeled[-1])}: {' '.join(map(str, residual(shown, peeled)))}"


def _draw_rule(rng: random.Random, dials: SequencesDials) -> Rule:
    level = LEVELS[whole(rng, dials.level)]
    return tuple(_draw_term(rng, letter, dials.size) for letter in level[int(rng.random() * len(level))])


def _draw_term(rng: random.Random, letter: str, size: float) -> Term:
    match letter:
        case "a":
            return "a", 1
        case "A":
            return "a", (2, 3, -1, -2)[int(rng.random() * 4)]
        case "b":
            return "b", (1, 1, 2, -1)[int(rng.random() * 4)]
        case "s":
            return "n*n", (1, 2, 3, -1)[int(rng.random() * 4)]
        case "n":
            return "n", _draw_number(rng, size / 2)
        case "m":
            return f"(n mod {2 + int(rng.random() * 3)})", _draw_number(rng, size / 2)
    return CONSTANT, _draw_number(rng, size)


def _draw_number(rng: random.Random, size: float) -> int:
    """A number up to ``size``, not 0, negative one time in four."""
    number = 1 + int(rng.random() * size)
    return -number if rng.random() < 0.25 else number
