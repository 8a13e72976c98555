"""Diverse verifier tree search: independent greedy searches over steps side by side (Beeching et al. 2024)."""

from __future__ import annotations

import math
from collections import Counter

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.layers import best, may_try_again
from outthink.reason.search.node import Expansion, Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "dvts",
    family="search",
    summary="Many greedy searches side by side, each taking the best of a few steps; their lines vote by score.",
    guarantee="heuristic",
    promise="as good as the verifier's scores; no tree waits for another",
    paper="Beeching, Tunstall and Rush 2024, Scaling Test-Time Compute with Open Models (diverse verifier tree search)",
    needs=("continuation",),
)
async def dvts(
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
    """n / width trees of ``width`` draws a step. Trees whose best step is the same stay together and draw for both."""
    at_least(1, n=n, width=width)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        n = search.plan(n)
        width = min(width, n)
        heads, tries, chosen = Counter({search.root: n // width}), Counter[Node](), Counter[Node]()
        waiting = [search.root]
        while not search.accepted:
            while waiting and search.room:
                head = waiting.pop(0)
                search.launch(head, heads[head] * width, sharing=len(waiting) + 1)
            if not search.in_flight:
                break
            expansion = await search.next()
            tries[expansion.node] += 1
            picks = pick(expansion, heads[expansion.node], width)
            if not picks and may_try_again(search, tries[expansion.node]):
                waiting.append(expansion.node)
            chosen += Counter({node: trees for node, trees in picks.items() if node.whole})
            heads += Counter({node: trees for node, trees in picks.items() if not node.whole})
            waiting += [node for node in picks if not node.whole]
            await search.close(*(node for node in expansion.live if node not in picks), fate="outscored")
        chosen += Counter(line for line in search.all_lines if line not in search.lines or not chosen)
        return await search.posterior(lambda line: line.score + math.log(chosen[line]) if chosen[line] else -math.inf)


def pick(expansion: Expansion, trees: int, width: int) -> Counter[Node]:
    """The step that each of ``trees`` takes: the best of its own ``width`` draws, or where all of those are ruled out
    the best of the others' draws.
    """
    draws = expansion.draws
    groups = [draws[start : start + width] for start in range(0, trees * width, width)]
    own = [best(group, 1) for group in groups]
    return Counter(node for found in own for node in (found or best(draws, 1)))
