"""The task's own exact checker as a verifier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.lm.protocol import Branch


class ExactChecker:
    """0 for a line whose answer is right, -inf for any other."""

    name = "exact"
    sound = True
    partial = False

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        if question.check is None:
            raise CapabilityError(
                "The exact verifier cannot check this problem: no task family recognises it. Use the verifier "
                "'likelihood', or state the problem as one of `outthink tasks` does."
            )

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        self.require(question)
        assert question.check is not None
        ledger.charge(verifier_calls=len(branches))
        return [0.0 if (a := question.answer_of(b)) is not None and question.check(a) else -math.inf for b in branches]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score == 0.0
