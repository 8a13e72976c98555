"""The verifier that all searches have in common: a hash of the text. It costs nothing and knows nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.bench.search.scorer import score
from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.lm.protocol import Branch


class TextScore:
    """The log of `scorer.score` of what was written so far. It accepts nothing, so no search ends early."""

    name = "text-hash"
    sound = False
    partial = True

    def require(self, question: Question) -> None:
        """Any question will do."""

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        return [math.log(score(branch.full_text)) for branch in branches]

    def accepts(self, score: float) -> bool:
        """Never."""
        return False
