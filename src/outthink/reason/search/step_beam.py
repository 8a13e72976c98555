"""Beam search over reasoning steps, scored by a verifier (MindStar, Kang et al. 2024, arXiv:2405.16265)."""

from __future__ import annotations

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.layers import best, grow_layer
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "step-beam",
    family="search",
    summary="Extend the best lines by a step in several ways each, keep the best of them, and so on.",
    guarantee="heuristic",
    promise="as good as the verifier's scores of unfinished lines; with a beam that holds every line drawn, the best "
    "of them all",
    paper="Kang et al. 2024, MindStar: Enhancing Math Reasoning in Pre-trained LLMs at Inference Time, "
    "arXiv:2405.16265",
    needs=("continuation",),
)
async def step_beam(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 16,
    width: int = 4,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Draw ``n`` steps a layer, in equal shares from each of the n / ``width`` best lines. Finished lines keep their
    place, and their share undrawn, for as long as they are among the best. Each answer weighs as its best line.
    """
    at_least(1, n=n, width=width)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        n = search.plan(n)
        beam, widths = [search.root], [n]
        while beam and not search.accepted and search.room:
            layer = await grow_layer(search, beam, widths)
            children = [child for expansion in layer for child in expansion.live]
            kept = best([*search.lines, *children], max(1, n // width))
            beam = [node for node in kept if node.open]
            widths = [max(1, n // max(1, len(kept)))] * len(beam)
            await search.close(*(child for child in children if child not in kept), fate="outscored")
        return await search.posterior(lambda line: line.score, best_line=True)
