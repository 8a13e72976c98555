"""Votes by the model's probability of distinct lines, without unlikely ones (Zhou et al. 2025, arXiv:2502.00511)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.posterior.mixture import fit
from outthink.reason.population import line_log_prob, weigh
from outthink.reason.waves import sample_lines
from outthink.verify import Verifier


@method(
    "probability-consistency",
    family="aggregation",
    summary="Sum the model's probability over the distinct lines that reach an answer, the unlikely ones dropped.",
    guarantee="heuristic",
    promise="without pruning, an answer's sum is a lower bound on its probability under the model, and rises to it "
    "with n; what pruning drops is measured only",
    paper="Zhou et al. 2025, Bridging Internal Probability and Self-Consistency for Effective and Efficient LLM "
    "Reasoning, arXiv:2502.00511",
    needs=("log_probs",),
)
async def probability_consistency(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    prune: bool = True,
    max_tokens: int | None = None,
) -> Posterior:
    """A line sampled twice counts once; a line weighs its probability, whatever the sampling was. One that the budget
    cut would weigh that of all lines that begin so: it counts only where there are no others.
    """
    lines: list[Branch] = []
    async with await lm.root(question.prompt) as root:
        async for wave in sample_lines(root, n, ledger, Until(max_tokens)):
            lines += wave
            for line in wave:
                await line.close()
    cut = [line for line in lines if _is_cut(line, ledger, max_tokens)]
    for line in cut:
        line.thought.fate = "cut by the budget"
    whole = [line for line in lines if line not in set(cut)] or cut
    distinct = list({tuple(line.tokens): line for line in reversed(whole)}.values())[::-1]
    kept = prune_unlikely(distinct) if prune else distinct
    for line in set(distinct) - set(kept):
        line.thought.fate = "too unlikely"
    # On the scale of the likeliest: the sums themselves are too small to be shown as the weights of lines.
    top = max((line_log_prob(line) for line in kept), default=0.0)
    return replace(weigh(question, kept, lambda line: line_log_prob(line) - top), attempts=len(lines))


def _is_cut(line: Branch, ledger: Ledger, max_tokens: int | None) -> bool:
    """Whether the budget ended ``line``: when it ran out, or with the line's own share of it."""
    longest = math.inf if max_tokens is None else max_tokens
    return line.finish == "budget" or (ledger.limited and line.finish == "length" and len(line.tokens) < longest)


def prune_unlikely(lines: Sequence[Branch]) -> list[Branch]:
    """Without the lines that belong to the less likely of two groups, and are less likely than the mean.

    The groups are two Weibull laws fitted to the probability per token; none is dropped where there are no two.
    """
    rates = [math.exp(line_log_prob(line) / max(1, len(line.tokens))) for line in lines]
    groups = fit(rates) if len(rates) >= 4 and min(rates) > 0 else None
    if groups is None:
        return list(lines)
    high, mean = groups.belongs_high(rates), float(np.mean(rates))
    return [line for line, rate, p in zip(lines, rates, high, strict=True) if p >= 0.5 or rate >= mean]
