"""The likeliest token at every position: one line, no thinking longer. The baseline of everything else."""

from __future__ import annotations

import math
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM
from outthink.reason.population import line_log_prob, log_sum, weigh
from outthink.verify import Verifier


@method(
    "greedy",
    family="decoding",
    summary="One line, the likeliest token at every position.",
    guarantee="lossless",
    promise="the line is the model's own greedy continuation; its confidence is that line's probability",
    paper="the ordinary decoder; no paper",
    needs=("log_probs",),
)
async def greedy(
    question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger, *, max_tokens: int | None = None
) -> Posterior:
    """Weigh the line by its own probability p, and leave 1 - p unassigned: mass that other lines would have had."""
    async with await lm.root(question.prompt) as root:
        [line] = await root.extend(1, Until(max_tokens), replace(lm.sampling, temperature=0.0))
        async with line:
            posterior = weigh(question, [line], line_log_prob)
            rest = math.log1p(-math.exp(p)) if (p := line_log_prob(line)) < 0 else -math.inf
            return replace(posterior, log_unassigned=log_sum([posterior.log_unassigned, rest]))
