"""Self-consistency: sample many lines, and let their answers vote (Wang et al. 2023, arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Callable

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.population import line_log_prob, weigh
from outthink.reason.waves import sample_lines
from outthink.verify import Verifier

PAPER = "Wang et al. 2023, Self-Consistency Improves Chain of Thought Reasoning, arXiv:2203.11171"


@method(
    "majority-vote",
    family="aggregation",
    summary="Sample n lines; the answer that most of them reach.",
    guarantee="consistent",
    promise="answer shares tend to the model's own law over answers as n grows; exactly unbiased without a budget",
    paper=PAPER,
)
async def majority_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    max_tokens: int | None = None,
) -> Posterior:
    """Every line weighs the same."""
    return await _vote(question, lm, ledger, n, max_tokens, lambda line: 0.0)


@method(
    "probability-vote",
    family="aggregation",
    summary="Sample n lines; each votes with its probability per token.",
    guarantee="heuristic",
    promise="none beyond measurement: weights depend on length, and lines are already sampled by probability",
    paper=PAPER + ', section 3.1, "weighted sum (normalized)"',
    needs=("log_probs",),
)
async def probability_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    max_tokens: int | None = None,
) -> Posterior:
    """A line of T tokens weighs exp(log-probability / T)."""
    return await _vote(question, lm, ledger, n, max_tokens, lambda line: line_log_prob(line) / max(1, len(line.tokens)))


async def _vote(
    question: Question,
    lm: LM,
    ledger: Ledger,
    n: int,
    max_tokens: int | None,
    log_weight: Callable[[Branch], float],
) -> Posterior:
    lines: list[Branch] = []
    async with await lm.root(question.prompt) as root:
        async for wave in sample_lines(root, n, ledger, Until(max_tokens)):
            lines += wave
            for line in wave:
                await line.close()
    return weigh(question, lines, log_weight)
