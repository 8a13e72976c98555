"""Sequential Monte Carlo token by token: any potential, and twists that guide the particles to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import SamplingError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Sampling
from outthink.lm.protocol import LM, Branch
from outthink.posterior.potential import Potential, Prefix, Twist
from outthink.posterior.resampling import resampler
from outthink.reason.particles.filters import PROMISE, check_options, plan_of
from outthink.reason.particles.islands import filter_islands
from outthink.reason.particles.target import Target, Verified, Weighted, prefix_of
from outthink.verify import Verifier
from outthink.verify.needs import check_verifier


class NoTwist:
    """No forecast: particles are not told apart before they are whole."""

    def log_twist(self, prefix: Prefix) -> float:
        """0 for every prefix."""
        return 0.0

    def log_biases(self, prefix: Prefix) -> Mapping[int, float]:
        """None: the model proposes."""
        return {}


class Twisted:
    """The model's own law x the potential of ``goal`` on whole lines, with a twist in its place until then.

    The next token is proposed from the model's law x exp(the twist's biases). Raises SamplingError where ``sampling``
    cannot draw some tokens at all: no weight could make up for them.
    """

    corrected = True

    def __init__(self, goal: Target, twist: Twist, sampling: Sampling) -> None:
        narrowed = sampling.top_k is not None or sampling.top_p < 1 or sampling.min_p > 0
        if sampling.greedy or narrowed:
            raise SamplingError("Twisted SMC weighs every token: use a temperature above 0 and no top_k, top_p, min_p.")
        self.goal, self.twist, self.base = goal, twist, sampling

    async def log_potentials(self, branches: Sequence[Branch], whole: Sequence[bool]) -> list[float]:
        """See `Target.log_potentials`."""
        done = [branch for branch, ended in zip(branches, whole, strict=True) if ended]
        values = dict(zip(done, await self.goal.log_potentials(done, [True] * len(done)), strict=True)) if done else {}
        return [
            values[branch] if ended else self.twist.log_twist(prefix_of(branch, False))
            for branch, ended in zip(branches, whole, strict=True)
        ]

    def sampling(self, branch: Branch) -> Sampling | None:
        """See `Target.sampling`."""
        bias = dict(self.base.logit_bias)
        for token, amount in self.twist.log_biases(prefix_of(branch, False)).items():
            bias[token] = bias.get(token, 0.0) + amount
        return replace(self.base, logit_bias=bias)


@method(
    "token-smc",
    family="particles",
    summary="A particle filter that weighs and resamples after every token, by any potential of the text so far.",
    guarantee="unbiased",
    promise=PROMISE,
    paper="Lew et al. 2023, Sequential Monte Carlo Steering of Large Language Models using Probabilistic Programs, "
    "arXiv:2306.03081",
    needs=("continuation", "sample_log_probs"),
)
async def token_smc(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    islands: int = 4,
    potential: Potential | None = None,
    every: int = 1,
    resampling: str = "systematic",
    floor: float = 0.5,
    max_tokens: int | None = None,
) -> Posterior:
    """Lines weigh p(line) x exp(potential); the verifier is the potential where none is given. Weights are compared
    after ``every`` tokens.
    """
    check_options(islands=islands, every=every)
    plan = plan_of(f"tokens:{every}", max_tokens, resample=resampler(resampling), floor=floor)
    target: Target = Weighted(potential) if potential is not None else Verified(question, verifier, ledger)
    if isinstance(target, Verified):
        check_verifier(lm, target.verifier)
    async with await lm.root(question.prompt) as root:
        return await filter_islands(question, root, target, plan, lm.sampling.seed, n, islands, ledger)


@method(
    "twisted-smc",
    family="particles",
    summary="Token-level SMC whose particles are proposed and weighed by a forecast of the potential.",
    guarantee="unbiased",
    promise="as token-smc with respect to the model's own law, for every twist; with the best possible twist every "
    "particle weighs the evidence exactly",
    paper="Zhao et al. 2024, Probabilistic Inference in Language Models via Twisted Sequential Monte Carlo, "
    "arXiv:2404.17546",
    needs=("continuation", "biased_log_probs", "token_ids"),
)
async def twisted_smc(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    islands: int = 4,
    potential: Potential | None = None,
    twist: Twist | None = None,
    resampling: str = "systematic",
    floor: float = 0.5,
    max_tokens: int | None = None,
) -> Posterior:
    """Lines weigh p(line) x exp(potential), p being the model's law at temperature 1 whatever the sampling is. The
    verifier is the potential where none is given; without a twist, lines are told apart only once they are whole.
    """
    check_options(islands=islands)
    plan = plan_of("tokens:1", max_tokens, resample=resampler(resampling), floor=floor)
    goal: Target = Weighted(potential) if potential is not None else Verified(question, verifier, ledger)
    if isinstance(goal, Verified):
        check_verifier(lm, goal.verifier)
    target = Twisted(goal, twist or NoTwist(), lm.sampling)
    async with await lm.root(question.prompt) as root:
        return await filter_islands(question, root, target, plan, lm.sampling.seed, n, islands, ledger)
