"""What a verifier is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.lm.protocol import Branch


class Verifier(Protocol):
    """Scores whole or partial lines of thought.

    ``name``: how commands call it. ``sound``: a line that it accepts is certainly right.
    """

    name: str
    sound: bool

    def require(self, question: Question) -> None:
        """Raise CapabilityError where the question is not one that it can judge. Asked before anything is spent."""
        ...

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """A log-weight (nats) for each branch: larger is better, -inf rules it out. Charges ``ledger`` for each."""
        ...

    def accepts(self, score: float) -> bool:
        """Whether a line with this score counts as verified."""
        ...
