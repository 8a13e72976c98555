"""Two-sided bounds on log Z of token-level SMC: forward sweeps from below, sweeps around an exact draw from above.

By Jensen's inequality the mean of log of an unbiased estimate of Z is at most log Z. Around a line drawn exactly from
the target, 1 / estimate is an unbiased estimate of 1 / Z, so that there the mean of its log is at least log Z (Zhao et
al. 2024, arXiv:2404.17546, section 5; Grosse, Ghahramani and Adams 2015, arXiv:1511.02543).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.errors import SamplingError, UserError
from outthink.core.question import Question
from outthink.core.rng import uniforms
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import LM, Branch
from outthink.posterior.evidence import Bounds, mean_and_error
from outthink.posterior.potential import Potential, Prefix, Twist
from outthink.reason.holding import Holding, together
from outthink.reason.particles.filters import plan_of
from outthink.reason.particles.guide import guided
from outthink.reason.particles.islands import key_of
from outthink.reason.particles.sweep import Particle, Plan, Sweep, sweep
from outthink.reason.particles.target import Target, Weighted, goal_of
from outthink.reason.particles.tokens import Twisted
from outthink.verify import Verifier, opened


class Neutral:
    """No potential at all: lines of the model as they are."""

    def log_potential(self, prefix: Prefix) -> float:
        """0 for every prefix."""
        return 0.0


NEUTRAL = Neutral()


async def evidence_bounds(
    question: Question,
    lm: LM,
    potential: Potential | str | None,
    ledger: Ledger,
    *,
    verifier: Verifier | str | None = None,
    twist: Twist | Verifier | str | None = None,
    n: int = 16,
    runs: int = 16,
    floor: float = 0.5,
    most_draws: int = 1024,
    max_tokens: int | None = None,
) -> Bounds:
    """Bounds on the log of the mean of exp(``potential``) over lines of the model, from ``runs`` sweeps of ``n``
    particles on either side.

    ``potential``, or else ``verifier``, and ``twist`` are what `twisted_smc` takes. Exact draws are had by rejection:
    the potential of a whole line must be at most 0, and that of a prefix -inf only where it is so for all that
    continues it. Where ``most_draws`` lines, or the ledger, give fewer than ``runs`` of them, the upper bound rests on
    those found; it is infinite without any. Where all particles of any run die, the lower bound is -inf. Raises
    UserError for a potential above 0, SamplingError unless lines are sampled at temperature 1 as they are.
    """
    if replace(lm.sampling, seed=0, top_logprobs=0) != Sampling():
        raise SamplingError("Bounds on log Z compare with the model's own law: sample at temperature 1, unfiltered.")
    async with (
        opened(verifier, lm) as judge,
        guided(twist, question, lm, ledger) as guide,
        await lm.root(question.prompt) as root,
        Holding() as held,
    ):
        goal, seed = goal_of(question, lm, potential, judge, ledger), lm.sampling.seed
        target: Target = goal if twist is None else Twisted(goal, guide, lm.sampling)
        plan = plan_of(guide.steps, max_tokens, floor=floor)

        async def one(number: int, retained: Sequence[Particle] = ()) -> Sweep:
            async with Holding() as own:
                return await sweep(question, root, target, plan, n, own, key_of(seed, 1, number), retained=retained)

        forward = await together(one(i) for i in range(runs))
        exact = await _exact_draws(question, root, goal, plan, seed, ledger, runs, most_draws, held)
        lines = [await _retrace(line, target, held) for line in exact]
        reverse = await together(one(runs + i, line) for i, line in enumerate(lines))
    below = [s.log_z for s in forward if not s.cut] or [-math.inf]
    above = [s.log_z for s in reverse if not s.cut] or [math.inf]
    return Bounds(*mean_and_error(below), *mean_and_error(above), runs, len(exact))


async def _exact_draws(
    question: Question,
    root: Branch,
    target: Target,
    plan: Plan,
    seed: int,
    ledger: Ledger,
    wanted: int,
    most_draws: int,
    held: Holding,
) -> list[list[Particle]]:
    """Up to ``wanted`` lines drawn exactly from model law x exp(log-potential of ``target``); ``held`` holds them."""
    found, drawn, free = list[list[Particle]](), 0, replace(plan, floor=0.0)
    while len(found) < wanted and drawn < most_draws and not ledger.exhausted:
        width = min(wanted, most_draws - drawn)
        key = key_of(seed, 2, drawn)
        async with Holding() as own:
            tried = await sweep(question, root, Weighted(NEUTRAL), free, width, own, key, keep_lines=True)
            draws = uniforms(np.full(width, key, np.uint64), np.arange(width, dtype=np.uint64))
            whole = [p.tip for p in tried.particles if p.whole]
            values = dict(zip(whole, await target.log_potentials(whole, [True] * len(whole)), strict=True))
            for particle, draw in zip(tried.particles, draws, strict=True):
                if particle.whole and len(found) < wanted:
                    value = values[particle.tip]
                    if value > 0:
                        raise UserError(
                            f"Rejection needs a potential of at most 0; {particle.tip.full_text!r}: {value}."
                        )
                    if math.log(draw) < value:
                        held.take(own, (p.tip for p in particle.line))
                        found.append(particle.line)
        drawn += width
    return found


async def _retrace(line: Sequence[Particle], target: Target, held: Holding) -> list[Particle]:
    """The same line as particles of ``target``: with its potentials, and its proposal's probability of each token."""
    traced = list[Particle]()
    for particle in line:
        assert particle.before is not None
        before = particle.before.tip
        [value] = await target.log_potentials([particle.tip], [particle.whole])
        ratio = await _log_ratio(before, particle.tip, target, held) if target.corrected else 0.0
        traced.append(replace(particle, log_potential=value, log_ratio=ratio))
    return traced


async def _log_ratio(before: Branch, tip: Branch, target: Target, held: Holding) -> float:
    """log p - log q of the one token of ``tip``, q being what ``target`` proposes.

    log q = log p + bias - log N, and N is seen in any token drawn from q: for that token too, log N = log p + bias -
    log q. So one more token, drawn and thrown away, tells it.
    """
    sampling = target.sampling(before)
    if sampling is None or not sampling.logit_bias or not tip.tokens:
        return 0.0
    [other] = held.add(await before.extend(1, Until(1), sampling))
    if not other.tokens:
        return 0.0  # the budget is spent, and the sweep will be cut
    biases = [sampling.logit_bias.get(branch.tokens[0], 0.0) for branch in (other, tip)]
    return other.log_probs[0] + biases[0] - other.sample_log_probs[0] - biases[1]
