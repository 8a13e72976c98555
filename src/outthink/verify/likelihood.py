"""The model's own log-probability of a line as a verifier."""

from __future__ import annotations

from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.lm.protocol import Branch


class Likelihood:
    """The log-probability of the whole line after its prompt, divided by its number of tokens (nats per token).

    Division by the length takes away the advantage of short lines; it was already computed while sampling, so that it
    costs nothing more.
    """

    name = "likelihood"
    sound = False
    partial = True
    needs = ("log_probs",)

    def require(self, question: Question) -> None:
        """Any question will do."""

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        return [_mean_log_prob(branch) for branch in branches]

    def accepts(self, score: float) -> bool:
        """Never: a likely line is not thereby a right one."""
        return False


def _mean_log_prob(branch: Branch) -> float:
    log_probs: list[float] = []
    at: Branch | None = branch
    while at is not None:
        log_probs += at.log_probs
        at = at.parent
    return sum(log_probs) / max(1, len(log_probs))
