"""A verifier whose scores are looked at before anybody reckons with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.lm.protocol import Branch
from outthink.verify.protocol import Verifier


class Checked:
    """``part``, whose scores must be one for each line, and numbers or -inf: UserError, which names it, where they are
    not. NaN and +inf would spoil every weight that they are added to.
    """

    def __init__(self, part: Verifier) -> None:
        self.part, self.name, self.sound, self.partial = part, part.name, part.sound, part.partial

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        self.part.require(question)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        scores = list(await self.part.score(question, branches, ledger))
        if len(scores) != len(branches):
            raise UserError(f"The verifier '{self.name}' gave {len(scores)} scores for {len(branches)} lines.")
        for score, branch in zip(scores, branches, strict=True):
            if math.isnan(score) or score == math.inf:
                raise UserError(
                    f"The verifier '{self.name}' scored a line {score}, and a score is a log-weight: a number, or -inf "
                    f"to rule the line out. The line is {branch.full_text[-200:]!r}."
                )
        return scores

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return self.part.accepts(score)
