"""Particle filters over steps of reasoning, with a verifier as the likelihood of a partial line."""

from __future__ import annotations

import math
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.posterior.resampling import perplexity, resampler
from outthink.reason.particles.islands import filter_islands
from outthink.reason.particles.sweep import Plan
from outthink.reason.particles.target import Verified
from outthink.reason.segment import Segmenter
from outthink.verify import Verifier
from outthink.verify.needs import check_verifier

PAPER = (
    "Puri et al. 2025, A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based "
    "Monte Carlo Methods, arXiv:2502.01618"
)
PROMISE = (
    "without a budget the estimated evidence, the mean of exp(verifier score) over lines of the model, is unbiased for "
    "any number of particles, and answer shares tend to p(line) x exp(score) as islands grow in number or size"
)


@method(
    "particle-filter",
    family="particles",
    summary="Grow n lines step by step; lines that the verifier likes are copied, others dropped.",
    guarantee="unbiased",
    promise=PROMISE,
    paper=PAPER,
    needs=("continuation",),
)
async def particle_filter(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    islands: int = 4,
    resampling: str = "systematic",
    floor: float = 0.5,
    early: float = 1.0,
    every: int = 1,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Resample where the effective sample size is below ``floor`` x particles (1: at every move, 0: never).

    ``islands`` populations run beside each other and never mix: that is where the error of the evidence comes from.
    ``early`` tempers the verifier on unfinished lines: 0 waits for whole lines, 1 trusts it at once. Weights are
    compared after ``every`` steps; in between nothing waits.
    """
    check_options(islands=islands, every=every)
    plan = plan_of(steps, max_tokens, resample=resampler(resampling), floor=floor, early=early, every=every)
    target = Verified(question, verifier, ledger)
    check_verifier(lm, target.verifier)
    async with await lm.root(question.prompt) as root:
        return await filter_islands(question, root, target, plan, lm.sampling.seed, n, islands, ledger)


@method(
    "entropic-particle-filter",
    family="particles",
    summary="A particle filter that resamples no more sharply than keeps the entropy of its weights up.",
    guarantee="unbiased",
    promise=PROMISE + "; flattening looks at the present population only, and copies carry what it left undone",
    paper="Giannone et al. 2025, Mitigating Premature Exploitation in Particle-based Monte Carlo for Inference-Time "
    "Scaling, arXiv:2510.05825; resampling by priority scores: Liu 2001, Monte Carlo Strategies in Scientific "
    "Computing, section 3.4.2",
    needs=("continuation",),
)
async def entropic_particle_filter(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    islands: int = 4,
    resampling: str = "systematic",
    floor: float = 0.5,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Where exp(entropy) of the weights is below ``floor`` x particles, resample by weight^a with the largest a that
    brings it up to that; a copy keeps the rest of its weight. Early mistakes of a verifier cost less diversity.
    """
    check_options(islands=islands)
    resample = resampler(resampling)
    plan = plan_of(steps, max_tokens, resample=resample, size=perplexity, floor=floor, flat=True)
    target = Verified(question, verifier, ledger)
    check_verifier(lm, target.verifier)
    async with await lm.root(question.prompt) as root:
        return await filter_islands(question, root, target, plan, lm.sampling.seed, n, islands, ledger)


def check_options(**options: float) -> None:
    """Raise UserError for a number of islands, chains or sweeps that is below 1."""
    for name, value in options.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")


def plan_of(steps: str | Segmenter, max_tokens: int | None, **options: Any) -> Plan:
    """The plan of these options. Raises UserError for one that is out of range."""
    plan = Plan(Segmenter.of(steps), math.inf if max_tokens is None else max_tokens, **options)
    for name, value, allowed in (
        ("floor", plan.floor, 0 <= plan.floor <= 1),
        ("early", plan.early, 0 <= plan.early <= 1),
    ):
        if not allowed:
            raise UserError(f"{name}={value} is out of range: it must be between 0 and 1.")
    return plan
