"""Stochastic beam search over steps, guided by self-evaluation (Xie et al. 2023, arXiv:2305.00633)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.rng import mix, uniforms
from outthink.lm.protocol import LM
from outthink.reason.search.layers import grow_layer
from outthink.reason.search.node import Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "guided-beam",
    family="search",
    summary="A beam over steps that is sampled by likelihood and verifier together, colder step by step; a vote.",
    guarantee="heuristic",
    promise="as good as the verifier's scores; chance keeps lines that a plain beam would drop",
    paper="Xie et al. 2023, Decomposition Enhances Reasoning via Self-Evaluation Guided Decoding, arXiv:2305.00633",
    needs=("continuation", "log_probs"),
)
async def guided_beam(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 16,
    width: int = 4,
    trust: float = 0.5,
    temperature: float = 0.5,
    annealing: float = 0.5,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Draw ``n`` steps a layer, and sample n / ``width`` of them without replacement in proportion to exp(E / t), where
    E adds up ``trust`` x score + (1 - ``trust``) x log-probability over a line's steps, and t falls from
    ``temperature`` by the factor ``annealing`` a layer. The lines kept vote.
    """
    at_least(1, n=n, width=width)
    at_least(1e-6, temperature=temperature, annealing=annealing)
    at_least(0, trust=trust, distrust=1 - trust)
    energy: dict[Node, float] = {}

    def energy_of(node: Node) -> float:
        if node.parent is None:
            return 0.0
        if node not in energy:
            step = trust * node.score + (1 - trust) * math.fsum(node.branch.log_probs)
            energy[node] = energy_of(node.parent) + step
        return energy[node]

    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        n = search.plan(n)
        beam, widths, finished = [search.root], [n], list[Node]()
        while beam and not search.accepted and search.room:
            layer = await grow_layer(search, beam, widths)
            drawn = [child for expansion in layer for child in expansion.fit]
            candidates, depth = [*finished, *drawn], beam[0].depth
            t = max(temperature * annealing**depth, 1e-6)
            key = mix(mix(lm.sampling.seed, 0x6265616D), depth)
            chosen = sample_without_replacement([energy_of(c) / t for c in candidates], max(1, n // width), key)
            kept = [candidates[i] for i in chosen]
            beam, finished = [c for c in kept if c.open], [c for c in kept if c.whole]
            widths = [max(1, n // max(1, len(kept)))] * len(beam)
            await search.close(*(c for c in drawn if c not in kept), fate="not sampled")
        voters = [line for line in finished or search.all_lines if line.score > -math.inf]
        return await search.posterior(lambda line: math.log(line.count) if line in voters else -math.inf)


def sample_without_replacement(log_weights: Sequence[float], n: int, key: int) -> list[int]:
    """``n`` indices, one after another in proportion to the weights of those left: the largest of log-weight + Gumbel
    noise (Kool, van Hoof and Welling 2019, arXiv:1903.06059). A pure function of its arguments.
    """
    size = len(log_weights)
    noise = uniforms(np.full(size, key, dtype=np.uint64), np.arange(size, dtype=np.uint64))
    perturbed = np.asarray(log_weights) - np.log(-np.log(noise))
    return [int(i) for i in np.argsort(-perturbed, kind="stable")[:n]]
