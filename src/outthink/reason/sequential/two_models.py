"""Two models in one tree: where to go on, and by which of them, by Thompson sampling (Inoue et al. 2025)."""

from __future__ import annotations

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.joint import JointBranch, JointLM
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM, Branch
from outthink.reason.search.abmcts import Belief, Thompson
from outthink.reason.search.node import Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "two-models",
    family="sequential",
    summary="One tree that two models write: each line is gone on from by whichever promises more, Thompson sampling.",
    guarantee="heuristic",
    promise="as good as the verifier's values; the better model, at its price, writes ever more of the lines",
    paper="Inoue et al. 2025, Wider or Deeper? Scaling LLM Inference-Time Compute with Adaptive Branching Tree "
    "Search, arXiv:2503.04412 (AB-MCTS with several models, section on multi-LLM search)",
    models=("second",),
    needs=("continuation",),
)
async def two_models(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    second: LM | None = None,
    price: float = 1.0,
    n: int = 64,
    in_flight: int = 8,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Write ``n`` lines to their end, ``in_flight`` at once, each from where, and by the model, that Thompson sampling
    says. A line's value is exp(score); a model's is divided by its price: 1 for ``lm``, ``price`` for ``second``. Each
    answer weighs as its best line.
    """
    if second is None:
        raise CapabilityError("two-models needs another model: name it, as in -o second=outthink-s.")
    at_least(1, n=n, in_flight=in_flight)
    at_least(1e-9, price=price)
    rng, joint = np.random.default_rng(lm.sampling.seed % 2**63), JointLM(lm, second)
    check_needs(two_models.needs, second, f"Beside {lm.name}, two-models")
    tree, models, written = Thompson(rng), [Belief(), Belief()], 0
    async with Search(question, joint, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        while not search.accepted:
            at_once = in_flight if written >= len(models) else 1  # each begins alone, which also pays for its prompt
            while written < n and search.in_flight < at_once and search.room:
                node = tree.select(search.root) if written >= len(models) else search.root
                branch = await _handed_to(node, _choose(models, price, written, rng))
                search.pay(branch.unread)
                if not search.room:
                    break
                search.launch_line(node, sharing=at_once - search.in_flight, branch=branch)
                written += 1
            if not search.in_flight:
                break
            expansion = await search.next()
            end = expansion.line[-1]
            if not end.cut:
                tree.back_up(expansion.node, expansion.line)
                models[_writer(expansion.start)].observe(end.value)
        return await search.posterior(lambda line: line.score, best_line=True)


def _choose(models: list[Belief], price: float, written: int, rng: np.random.Generator) -> int:
    if written < len(models):
        return written
    draws = [belief.draw(rng) / cost for belief, cost in zip(models, (1.0, price), strict=True)]
    return int(np.argmax(draws))


async def _handed_to(node: Node, writer: int) -> JointBranch:
    assert isinstance(node.branch, JointBranch)
    return await node.branch.by(writer).ready()


def _writer(branch: Branch | None) -> int:
    assert isinstance(branch, JointBranch)
    return branch.writer
