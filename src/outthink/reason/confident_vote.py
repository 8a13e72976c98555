"""Voting among the lines that the model was sure of throughout (DeepConf: Fu et al. 2025, arXiv:2508.15260)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding
from outthink.reason.in_order import Grow, lines_in_order
from outthink.reason.population import weigh
from outthink.reason.waves import with_share
from outthink.verify import Verifier


@method(
    "confident-vote",
    family="aggregation",
    summary="Sample lines, stop those in which the model loses its confidence, and let the surest share vote.",
    guarantee="heuristic",
    promise="none beyond measurement: with keep=1 every line votes, weighted by its lowest confidence",
    paper="Fu et al. 2025, Deep Think with Confidence, arXiv:2508.15260",
    needs=("continuation", "top_log_probs"),
)
async def confident_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 8,
    keep: float = 0.5,
    window: int = 32,
    top: int = 10,
    warmup: int = 8,
    max_tokens: int | None = None,
) -> Posterior:
    """A line's confidence is the lowest mean, over ``window`` tokens in a row, of minus the mean log-probability of
    the ``top`` likeliest tokens. The share ``keep`` with the highest votes, weighted by it.

    After ``warmup`` whole lines, later ones are given up as soon as they fall below what the warm-up would have kept.
    """
    if not 0 < keep <= 1 or window < 1 or top < 1:
        raise UserError(f"keep={keep}, window={window}, top={top}: keep lies in (0, 1], window and top are at least 1.")
    sampling = replace(lm.sampling, top_logprobs=top)
    sure: dict[Branch, float] = {}
    async with await lm.root(question.prompt) as root:
        floor = -math.inf
        for num in (min(n, max(1, warmup)), n - max(1, warmup)):
            grow = _watched(root, Until(max_tokens), sampling, window, floor)
            async with aclosing(lines_in_order(grow, num, width, ledger)) as sampled:
                async for line in sampled:
                    await line.close()
                    line.thought.value = sure[line] = lowest_confidence(line, window)
            floor = floor if floor > -math.inf else kept_from(list(sure.values()), keep)
    kept = [line for line in sure if sure[line] >= floor]
    for line in sure.keys() - set(kept):
        line.thought.fate = "too unsure"
    return replace(weigh(question, kept, lambda line: math.log(max(sure[line], 1e-300))), attempts=len(sure))


def kept_from(confidences: Sequence[float], keep: float) -> float:
    """The lowest confidence among the share ``keep``, rounded up, of the highest."""
    ranked = sorted(confidences, reverse=True)
    return ranked[math.ceil(keep * len(ranked)) - 1] if ranked else -math.inf


def lowest_confidence(line: Branch, window: int) -> float:
    """The lowest mean confidence of ``window`` tokens in a row; of all tokens where there are fewer.

    Raises CapabilityError where the model gives no likeliest tokens.
    """
    values, at = list[float](), line
    while at.parent is not None:
        if len(at.top_log_probs) < len(at.tokens):
            raise CapabilityError(
                "confident-vote needs the log-probabilities of the likeliest tokens; this LM has none."
            )
        values = [_confidence(pairs) for pairs in at.top_log_probs] + values
        at = at.parent
    if not values:
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(values)])
    size = min(window, len(values))
    return float(((sums[size:] - sums[:-size]) / size).min())


def _confidence(pairs: Sequence[tuple[int, float]]) -> float:
    return -math.fsum(max(log_prob, -1e3) for _, log_prob in pairs) / max(1, len(pairs))


def _watched(root: Branch, until: Until, sampling: Sampling, window: int, floor: float) -> Grow:
    """Lines grown ``window`` tokens at a time, and no further than their confidence stays at ``floor`` or above."""

    async def grow(share: float) -> Branch:
        left = min(share, math.inf if until.max_tokens is None else until.max_tokens)
        if floor == -math.inf:
            [line] = await root.extend(1, with_share(until, left), sampling)
            return line
        async with Holding() as held:
            tip = root
            while True:
                piece = with_share(until, min(left, window))
                [tip] = held.add(await tip.extend(1, piece, sampling))
                left -= len(tip.tokens)
                whole = tip.finish != "length" or len(tip.tokens) < (piece.max_tokens or math.inf)
                if whole or left < 1 or lowest_confidence(tip, window) < floor:
                    held.release(tip)
                    return tip
                await held.keep([tip])

    return grow
