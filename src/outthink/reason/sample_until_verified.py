"""Repeated sampling that stops at the first verified answer (Brown et al. 2024, "Large Language Monkeys")."""

from __future__ import annotations

import math
from contextlib import aclosing
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.in_order import lines_in_order, whole_line
from outthink.reason.population import weigh
from outthink.verify import Verifier


@method(
    "sample-until-verified",
    family="aggregation",
    summary="Sample lines, a few in flight, until the verifier accepts one.",
    guarantee="bounded",
    promise="with a verifier that is never wrong, an accepted answer is right; one that can be fooled is fooled the "
    "likelier the more lines are tried: then see sample-while-worthwhile",
    paper="Brown et al. 2024, Large Language Monkeys: Scaling Inference Compute with Repeated Sampling, "
    "arXiv:2407.21787",
    accepting=True,
)
async def sample_until_verified(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    max_tokens: int | None = None,
) -> Posterior:
    """Sample at most ``n`` lines, ``width`` in flight, each judged as its turn comes; once the verifier accepts one the
    others are given up.
    """
    if verifier is None or not verifier.accepts(0.0):  # 0 is the log-weight of certainty
        raise CapabilityError(
            "sample-until-verified needs a verifier that can accept a line: give one, such as 'exact'."
        )
    verdicts: dict[Branch, float] = {}
    async with (
        await lm.root(question.prompt) as root,
        aclosing(lines_in_order(whole_line(root, Until(max_tokens)), n, width, ledger)) as sampled,
    ):
        async for line in sampled:
            async with line:
                [score] = await verifier.score(question, [line], ledger)
            line.thought.value = score
            verdicts[line] = 0.0 if verifier.accepts(score) else -math.inf
            if verifier.accepts(score):
                return replace(weigh(question, list(verdicts), lambda line: verdicts[line]), stopped="verified")
    return replace(weigh(question, list(verdicts)), stopped="nothing verified")
