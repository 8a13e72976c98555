"""Best-of-n: sample n lines, let a verifier score each, keep the best (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import math
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM
from outthink.reason.judged import judged_lines
from outthink.reason.population import weigh
from outthink.verify import Verifier
from outthink.verify.likelihood import Likelihood
from outthink.verify.needs import check_verifier


@method(
    "best-of-n",
    family="aggregation",
    summary="Sample n lines; the answer of the line that the verifier scores highest.",
    guarantee="heuristic",
    promise="as good as its verifier; with a sound one, right whenever any of the n lines is right",
    paper="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168",
)
async def best_of_n(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    max_tokens: int | None = None,
) -> Posterior:
    """Each answer weighs as its best line; the verifier is the model's own likelihood where none is given."""
    judge = verifier or Likelihood()
    check_verifier(lm, judge)
    scores = await judged_lines(question, lm, judge, n, ledger, Until(max_tokens))
    posterior = weigh(question, list(scores), lambda line: scores[line])
    if not posterior.weights:  # nothing passed: fall back on what the lines agree on
        return replace(weigh(question, list(scores)), stopped="no line passed the verifier")
    best: dict[str, Candidate] = {}
    for candidate in posterior.candidates:
        if candidate.answer not in best or candidate.log_weight > best[candidate.answer].log_weight:
            best[candidate.answer] = candidate
    return replace(posterior, candidates=tuple(best.values()), log_unassigned=-math.inf)
