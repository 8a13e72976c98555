"""Voting that stops once the leader can hardly be overtaken (Aggarwal et al. 2023, arXiv:2305.11860)."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.posterior.stopping import probability_of_lead
from outthink.reason.in_order import lines_in_order, whole_line
from outthink.reason.population import weigh
from outthink.verify import Verifier


@method(
    "adaptive-vote",
    family="aggregation",
    summary="Sample lines until it is settled which answer has most votes, and cancel the rest.",
    guarantee="bounded",
    promise="when it stops, the probability that the runner-up is truly more common than the winner is at most "
    "1 - settled, under a uniform prior on the share of the two",
    paper="Aggarwal et al. 2023, Let's Sample Step by Step: Adaptive-Consistency for Efficient Reasoning and Coding "
    "with LLMs, arXiv:2305.11860",
    confidence="settled",
)
async def adaptive_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 8,
    settled: float = 0.95,
    max_tokens: int | None = None,
) -> Posterior:
    """At most ``n`` lines, ``width`` in flight; every answer has one vote."""
    if not 0.5 < settled < 1:
        raise UserError(f"settled={settled} must lie between 0.5 and 1: it is the probability of a lasting lead.")
    lines: list[Branch] = []
    votes: Counter[str] = Counter()
    async with (
        await lm.root(question.prompt) as root,
        aclosing(lines_in_order(whole_line(root, Until(max_tokens)), n, width, ledger)) as sampled,
    ):
        async for line in sampled:
            lines.append(line)
            await line.close()
            if (answer := question.answer_of(line)) is not None:
                votes[answer] += 1
                if has_settled(votes, settled):
                    return replace(weigh(question, lines), stopped="settled")
    return weigh(question, lines)


def has_settled(votes: Counter[str], settled: float) -> bool:
    """Whether the leader stays ahead of the runner-up with probability ``settled``."""
    (_, first), (_, second) = [*votes.most_common(2), ("", 0), ("", 0)][:2]
    return probability_of_lead(first, second) >= settled
