"""How sure the model was of the tokens that it wrote: verifiers for no more than asking for log-probabilities.

Both read the likeliest tokens beside each drawn one, and so need ``Sampling.top_logprobs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.lm.protocol import Branch


class TokenConfidence:
    """Minus log k divided by the mean over a line of token confidence, which is minus the mean log-probability of the k
    likeliest tokens, in nats.

    Where one token takes nearly all the probability the others are very unlikely, so that confidence is large and the
    score near 0; where k tokens are equally likely, and no others, it is -1. A log-weight of at most 0 can guide a
    search, as confidence itself could not. ``window``: the least mean over so many tokens in a row instead, so that one
    doubtful passage counts (None: the whole line). Source of the confidence: Fu et al. 2025, Deep Think with
    Confidence, arXiv:2508.15260, sections 3.1 and 3.2. Raises CapabilityError where the tokens were drawn with
    ``top_logprobs`` below 2.
    """

    name = "confidence"
    sound = False
    partial = True
    needs = ("top_log_probs",)

    def __init__(self, window: int | None = None) -> None:
        self.window = window

    def require(self, question: Question) -> None:
        """Any question will do."""

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        return [self._score(branch) for branch in branches]

    def accepts(self, score: float) -> bool:
        """Never: a line that the model was sure of is not thereby a right one."""
        return False

    def _score(self, branch: Branch) -> float:
        values = [_confidence(top) / math.log(len(top)) for top in _tops(branch, least=2)]
        size = min(self.window or len(values), len(values))
        if not size:
            return 0.0
        return -1 / min(math.fsum(values[i : i + size]) / size for i in range(len(values) - size + 1))


class Entropy:
    """Minus the mean entropy of the next token along a line, in nats: 0 where the model never hesitated.

    Of each law only the k likeliest tokens are known; the rest of it is counted as one more token. Raises
    CapabilityError where the tokens were drawn without ``top_logprobs``.
    """

    name = "entropy"
    sound = False
    partial = True
    needs = ("top_log_probs",)

    def require(self, question: Question) -> None:
        """Any question will do."""

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        found = [[_entropy(top) for top in _tops(branch)] for branch in branches]
        return [-math.fsum(values) / max(1, len(values)) for values in found]

    def accepts(self, score: float) -> bool:
        """Never: a line that the model was sure of is not thereby a right one."""
        return False


Top = Sequence[tuple[int, float]]


def _tops(branch: Branch, least: int = 1) -> list[Top]:
    """What was noted of each token's law, along the whole line: ``least`` tokens or more."""
    parts: list[Sequence[Top]] = []
    at: Branch | None = branch
    while at is not None:
        if at.log_probs and (len(at.top_log_probs) != len(at.tokens) or min(map(len, at.top_log_probs)) < least):
            raise CapabilityError(
                "This verifier reads the likeliest tokens beside each drawn one, and none were kept: sample with "
                "top_logprobs=5 or more."
            )
        parts.append(at.top_log_probs)
        at = at.parent
    return [top for part in reversed(parts) for top in part]


def _confidence(top: Top) -> float:
    return -math.fsum(max(log_prob, -100.0) for _, log_prob in top) / len(top)


def _entropy(top: Top) -> float:
    probabilities = [math.exp(log_prob) for _, log_prob in top]
    probabilities.append(max(0.0, 1.0 - math.fsum(probabilities)))
    return -math.fsum(p * math.log(p) for p in probabilities if p > 1e-12)
