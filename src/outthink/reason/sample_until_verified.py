"""Repeated sampling that stops at the first verified answer (Brown et al. 2024, "Large Language Monkeys")."""

from __future__ import annotations

import math
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.population import weigh
from outthink.reason.waves import sample_lines
from outthink.verify import Verifier


@method(
    "sample-until-verified",
    family="aggregation",
    summary="Sample lines a few at a time until the verifier accepts one.",
    guarantee="bounded",
    promise="an accepted answer is wrong no more often than the verifier accepts wrong ones: never, if it is sound",
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
    """Sample at most ``n`` lines, ``width`` at a time, and stop once the verifier accepts one."""
    if verifier is None or not verifier.accepts(0.0):  # 0 is the log-weight of certainty
        raise CapabilityError(
            "sample-until-verified needs a verifier that can accept a line: give one, such as 'exact'."
        )
    verdicts: dict[Branch, float] = {}
    async with await lm.root(question.prompt) as root:
        async for wave in sample_lines(root, n, ledger, Until(max_tokens), widest=width):
            for line, score in zip(wave, await verifier.score(question, wave, ledger), strict=True):
                line.thought.value = score
                verdicts[line] = 0.0 if verifier.accepts(score) else -math.inf
                await line.close()
            if max(verdicts.values()) == 0.0:
                return replace(weigh(question, list(verdicts), lambda line: verdicts[line]), stopped="verified")
    return replace(weigh(question, list(verdicts)), stopped="nothing verified")
