"""What a verifier is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.lm.protocol import LM, Branch


class Verifier(Protocol):
    """Scores whole or partial lines of thought.

    ``name``: how commands call it. ``sound``: a line that it accepts is certainly right. ``partial``: it can judge
    lines that are on the way, and not just finished ones. One that needs more of the model than the text of its lines
    names that in ``needs``, a tuple of `outthink.lm.needs.NEEDS`. One whose scores can only be compared with others of
    the same call says so as ``relative = True``. A class that is not made without arguments is an
    `Opens` besides; one that holds something open has ``close()``.
    """

    name: str
    sound: bool
    partial: bool

    def require(self, question: Question) -> None:
        """Raise CapabilityError where the question is not one that it can judge. Asked before anything is spent.

        May take its time: `think` asks on a thread of its own, before whoever asks again on the event loop.
        """
        ...

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """A log-weight (nats) for each branch: larger is better, -inf rules it out. Charges ``ledger`` for each."""
        ...

    def accepts(self, score: float) -> bool:
        """Whether a line with this score counts as verified."""
        ...


class Opens(Protocol):
    """What a class of verifiers has that is not made without arguments."""

    @classmethod
    def open(cls, lm: LM | None, argument: str) -> Verifier:
        """The verifier that ``name:argument`` asks for, to judge lines of ``lm``; ``argument`` is empty where none was
        given.
        """
        ...
