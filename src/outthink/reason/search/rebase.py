"""Reward-balanced search: the next layer is shared out by the reward of the lines (REBASE, Wu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.layers import grow_layer
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "rebase",
    family="search",
    summary="Extend each line in as many ways as the softmax of its reward says; finished lines vote by reward.",
    guarantee="heuristic",
    promise="as good as the verifier's scores; without a verifier's preference it is weighted voting",
    paper="Wu et al. 2024, An Empirical Analysis of Compute-Optimal Inference for Problem-Solving with Language "
    "Models, arXiv:2408.00724",
    needs=("continuation",),
)
async def rebase(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 16,
    temperature: float = 0.1,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Draw ``n`` steps a layer, less the lines that are finished; rewards are exp(score), ``temperature`` is T_b."""
    at_least(1, n=n)
    at_least(1e-6, temperature=temperature)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        n = search.plan(n)
        layer, widths = [search.root], [n]
        while layer and not search.accepted and search.room:
            grown = await grow_layer(search, layer, widths)
            layer = [child for expansion in grown for child in expansion.live]
            left = n - sum(line.count for line in search.lines)
            widths = share_out(left, [node.value for node in layer], temperature, [node.count for node in layer])
            await search.close(*(node for node, w in zip(layer, widths, strict=True) if not w), fate="outscored")
            layer = [node for node, w in zip(layer, widths, strict=True) if w]
            widths = [w for w in widths if w]
        return await search.posterior(lambda line: line.score + math.log(line.count))


def share_out(total: int, rewards: Sequence[float], temperature: float, counts: Sequence[int]) -> list[int]:
    """``total`` parted in proportion to counts x exp(rewards / temperature), by largest remainders (ties to the
    first): a draw that came several times weighs as that many lines.
    """
    if total <= 0 or not rewards:
        return [0] * len(rewards)
    top = max(rewards)
    weights = [c * math.exp((r - top) / temperature) for c, r in zip(counts, rewards, strict=True)]
    exact = [total * weight / math.fsum(weights) for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares
