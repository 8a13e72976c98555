"""What a task family is: problems with gold steps, an exact checker and an exact step oracle.

A solution is text: one reasoning step a line, then a last line ``answer: X``. A *partial* solution is any
prefix of such a text, cut at any character. Families never consult a model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from outthink.core.errors import TaskError
from outthink.core.question import parse_answer as parse_answer

Split = Literal["train", "validation", "test"]
ANSWER = "answer: "
TEST_PERCENT, VALIDATION_PERCENT = 10, 5


class Family(Protocol):
    """One kind of problem. Instances are stateless; every method is a pure function of its arguments."""

    name: str
    summary: str

    def generate(self, seed: int, difficulty: float) -> Problem:
        """The problem of this seed at ``difficulty`` in [0, 1]; the same on every machine and Python version."""
        ...

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether ``answer`` (the text after ``answer:``) is right. Unparsable text is False, never an error."""
        ...

    def extendable(self, problem: Problem, partial: str) -> bool:
        """Whether some text appended to ``partial`` makes a solution in the family's accepted form, every step right.

        `Problem.extendable` accepts other ways of writing a complete answer as well.
        """
        ...

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """The same problem told otherwise (names, order, number format): same meaning, same canonical form."""
        ...

    def read(self, prompt: str) -> Problem | None:
        """The problem that ``prompt`` states, or None where this family cannot tell it from its text."""
        ...


@dataclass(frozen=True)
class Problem:
    """A question with its gold solution.

    ``canonical`` is a string that is equal for two problems exactly when one is a renaming of the other; the split
    is decided by its hash, so that no rendering of a test problem can be trained on. ``data`` is what the checker
    needs, made of plain JSON values.
    """

    family: str
    difficulty: float
    seed: int
    prompt: str
    steps: tuple[str, ...]
    answer: str
    canonical: str
    data: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def solution(self) -> str:
        """The gold solution: the steps, then the answer line."""
        return "\n".join((*self.steps, ANSWER + self.answer))

    @property
    def key(self) -> str:
        """Hash of family and prompt text, 16 hex digits."""
        return _digest(self.family + "\0" + self.prompt)

    @property
    def canonical_key(self) -> str:
        """Hash of family and canonical form, 16 hex digits; decides the split."""
        return _digest(self.family + "\0" + self.canonical)

    @property
    def split(self) -> Split:
        bucket = int(self.canonical_key, 16) % 100
        if bucket < TEST_PERCENT:
            return "test"
        return "validation" if bucket < TEST_PERCENT + VALIDATION_PERCENT else "train"

    def check(self, answer: str) -> bool:
        """Whether ``answer`` is right, by the family's exact checker."""
        return family(self.family).check(self, answer.strip())

    def extendable(self, partial: str) -> bool:
        """Whether ``partial`` can still become a right solution, by the family's exact step oracle.

        An answer that is complete may be written in any way that `check` accepts, once the steps before it allow one.
        The steps themselves must be of the accepted form that the family's module describes.
        """
        source = family(self.family)
        if source.extendable(self, partial):
            return True
        steps, marker, answer = partial.removesuffix("\n").rpartition(ANSWER)
        at_line = marker != "" and (steps == "" or steps.endswith("\n")) and "\n" not in answer
        return at_line and source.extendable(self, steps + ANSWER) and source.check(self, answer.strip())

    def rerender(self, seed: int) -> Problem:
        return family(self.family).rerender(self, seed)


def rng_for(family_name: str, seed: int, difficulty: float) -> random.Random:
    """A generator that depends only on its arguments (``random.Random`` seeded by a digest)."""
    return random.Random(int(_digest(f"{family_name}\0{seed}\0{difficulty:.6f}"), 16))


def check_difficulty(difficulty: float) -> float:
    """``difficulty`` itself, or a TaskError where it is outside 0..1."""
    if not 0.0 <= difficulty <= 1.0:
        raise TaskError(f"Difficulty {difficulty!r} is outside 0..1: 0 is the easiest, 1 the hardest.")
    return float(difficulty)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def family(name: str) -> Family:
    """The family called ``name``; an UnknownNameError lists the known ones."""
    from outthink.tasks.families import get_family

    return get_family(name)
