"""Votes weighed by a verifier: importance sampling from the model to the model x the verifier's weight."""

from __future__ import annotations

from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM
from outthink.posterior.evidence import pool
from outthink.reason.judged import judged_lines
from outthink.reason.population import weigh
from outthink.verify import Verifier
from outthink.verify.likelihood import Likelihood
from outthink.verify.needs import check_verifier, is_relative


@method(
    "weighted-vote",
    family="aggregation",
    summary="Sample n lines; each votes with the weight that the verifier gives it.",
    guarantee="unbiased",
    promise="without a budget the estimated evidence, the mean of exp(verifier score) over lines of the model, is "
    "unbiased for any n, and answer shares tend to p(line) x exp(score) as n grows",
    paper="Li et al. 2023, Making Large Language Models Better Reasoners with Step-Aware Verifier, arXiv:2206.02336; "
    "importance sampling: Kahn and Marshall 1953, Methods of Reducing Sample Size in Monte Carlo Computations",
)
async def weighted_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    max_tokens: int | None = None,
) -> Posterior:
    """A line weighs exp(score of the whole line); where none is above 0, all lines vote alike."""
    judge = verifier or Likelihood()
    check_verifier(lm, judge)
    scores = await judged_lines(question, lm, judge, n, ledger, Until(max_tokens))
    whole = {line: score for line, score in scores.items() if line.finish != "budget"}
    found = weigh(question, list(scores), lambda line: scores[line])
    if not found.weights:
        found = replace(weigh(question, list(scores)), stopped="no line passed the verifier")
    if not whole or is_relative(judge):  # what each line weighs then depends on the others
        return found
    evidence = pool(list(whole.values()), [1] * len(whole))
    return replace(found, log_evidence=evidence.log_z, log_evidence_se=evidence.se, evidence_runs=evidence.runs)
