"""Sequential Monte Carlo token by token: any potential, and twists that guide the particles to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import SamplingError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Sampling
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM, Branch
from outthink.posterior.potential import Potential, Twist
from outthink.posterior.resampling import resampler
from outthink.reason.particles.filters import PROMISE, check_options, plan_of
from outthink.reason.particles.guide import Forecast, Guide, guided
from outthink.reason.particles.islands import filter_islands
from outthink.reason.particles.target import Target, goal_of
from outthink.reason.segment import Segmenter
from outthink.verify import Verifier


class Twisted:
    """The model's own law x the potential of ``goal`` on whole lines, with a twist in its place until then.

    The next token is proposed from the model's law x exp(the twist's biases). Raises SamplingError where ``sampling``
    cannot draw some tokens at all: no weight could make up for them.
    """

    corrected = True

    def __init__(self, goal: Target, twist: Twist | Guide, sampling: Sampling) -> None:
        narrowed = sampling.top_k is not None or sampling.top_p < 1 or sampling.min_p > 0
        if sampling.greedy or narrowed:
            raise SamplingError("Twisted SMC weighs every token: use a temperature above 0 and no top_k, top_p, min_p.")
        self.goal, self.base = goal, sampling
        self.guide: Guide = Forecast(twist) if isinstance(twist, Twist) else twist

    async def log_potentials(self, branches: Sequence[Branch], whole: Sequence[bool]) -> list[float]:
        """See `Target.log_potentials`."""
        lists: tuple[list[Branch], list[Branch]] = [], []
        for branch, ended in zip(branches, whole, strict=True):
            lists[ended].append(branch)
        growing, done = lists
        values = dict(zip(done, await self.goal.log_potentials(done, [True] * len(done)), strict=True)) if done else {}
        values |= zip(growing, await self.guide.log_twists(growing), strict=True) if growing else ()
        return [values[branch] for branch in branches]

    def sampling(self, branch: Branch) -> Sampling | None:
        """See `Target.sampling`."""
        bias = dict(self.base.logit_bias)
        for token, amount in self.guide.log_biases(branch).items():
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
    potential: Potential | str | None = None,
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
    target = goal_of(question, lm, potential, verifier, ledger)
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
    needs=("continuation",),
)
async def twisted_smc(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    islands: int = 4,
    potential: Potential | str | None = None,
    twist: Twist | Verifier | str | None = None,
    steps: str | Segmenter | None = None,
    resampling: str = "systematic",
    floor: float = 0.5,
    max_tokens: int | None = None,
) -> Posterior:
    """Lines weigh p(line) x exp(potential), p being the model's law at temperature 1 whatever the sampling is. The
    verifier is the potential where none is given; without a ``twist``, lines are told apart only once they are whole.

    A twist that is a verifier of steps, such as prm, is read as each line of text ends, and particles are compared
    then; any other is asked after every token. ``steps`` says otherwise.
    """
    check_options(islands=islands)
    goal = goal_of(question, lm, potential, verifier, ledger)
    async with guided(twist, question, lm, ledger) as guide:
        plan = plan_of(steps or guide.steps, max_tokens, resample=resampler(resampling), floor=floor)
        target = Twisted(goal, guide, lm.sampling)
        if replace(lm.sampling, seed=0, top_logprobs=0) != Sampling():
            check_needs(("log_probs", "sample_log_probs"), lm, "Twisted SMC at another law than the model's own")
        async with await lm.root(question.prompt) as root:
            return await filter_islands(question, root, target, plan, lm.sampling.seed, n, islands, ledger)
