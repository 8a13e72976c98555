"""Greedy steps with backtracking (Ma et al. 2023, "Let's reward step by step", arXiv:2310.10080)."""

from __future__ import annotations

from collections import Counter

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.node import Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@method(
    "step-greedy",
    family="search",
    summary="One step at a time: go on from a good one, draw again after a bad one, go back where none is left.",
    guarantee="heuristic",
    promise="as good as the verifier's scores of unfinished lines",
    paper="Ma et al. 2023, Let's Reward Step by Step: Step-Level Reward Model as the Navigators for Reasoning, "
    "arXiv:2310.10080",
    needs=("continuation",),
)
async def step_greedy(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    good: float = 0.5,
    bad: float = 0.1,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Draw at most ``n`` steps, ``width`` from one line. A step is good where exp(score) is at least ``good``, bad
    below ``bad``; of those between the best is taken once ``width`` draws gave none that is good. What was drawn before
    is not gone into again.
    """
    at_least(1, n=n, width=width)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        here = search.root
        tries, neutral, tried = Counter[Node](), dict[Node, list[Node]](), set[Node]()
        for _ in range(n):
            while here.parent is not None and tries[here] == width and not neutral.get(here):
                await search.close(here, fate="no way on")  # nothing good or neutral is left below it
                here = here.parent
            if here.parent is None and tries[here] == width and not neutral.get(here):
                tries[here] = 0  # from the start again: there are other first steps
            if not search.room:
                break
            if tries[here] == width:
                step = max(neutral[here], key=lambda node: node.score)
                neutral[here].remove(step)
            else:
                tries[here] += 1
                search.launch(here, 1, last=False)
                [step] = (await search.next()).draws
                if step in tried:
                    continue
                tried.add(step)
                if step.value < bad or step.cut or (step.whole and not step.answered):
                    await search.close(step, fate="bad")
                    continue
                if step.value < good:
                    neutral.setdefault(here, []).append(step)
                    continue
            if step.whole:
                break
            here = step
        return await search.posterior(lambda line: line.score, best_line=True)
