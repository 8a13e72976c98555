"""Learning a twist for one problem from the model's own lines of it."""

from __future__ import annotations

from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import SamplingError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM
from outthink.posterior.potential import Potential
from outthink.posterior.twist import Fit, fit_twist
from outthink.reason.holding import Holding
from outthink.reason.particles.bounds import NEUTRAL
from outthink.reason.particles.filters import plan_of
from outthink.reason.particles.guide import STEPS, tokenizer_of
from outthink.reason.particles.islands import key_of
from outthink.reason.particles.sweep import sweep
from outthink.reason.particles.target import Weighted, goal_of, prefix_of
from outthink.verify import Verifier, opened

AT_ONCE = 64  # lines in flight
ROLLOUTS = 3  # sets the random numbers apart from those of bounds


async def learn_twist(
    question: Question,
    lm: LM,
    potential: Potential | str | None,
    ledger: Ledger,
    *,
    verifier: Verifier | str | None = None,
    lines: int = 256,
    order: int = 3,
    propose: bool = True,
    max_tokens: int | None = None,
) -> Fit:
    """A twist for ``potential``, or else ``verifier``, by regression on ``lines`` of the model, or as many times 64 as
    the ledger pays.

    It forecasts the mean potential of the lines that go on from a prefix, from the prefix's last ``order`` tokens, the
    tokens that it holds and its length; with ``propose`` it leads the choice of tokens as well. Raises SamplingError
    unless lines are sampled at temperature 1 as they are, CapabilityError for a model without token ids, and UserError
    where no line has any weight.
    """
    if replace(lm.sampling, seed=0, top_logprobs=0) != Sampling():
        raise SamplingError("A twist forecasts the model's own law: learn it at temperature 1, unfiltered.")
    if lines < 1:
        raise UserError(f"lines={lines} must be at least 1.")
    check_needs(("continuation", "token_ids"), lm, "Learning a twist")
    plan, seed = plan_of(STEPS, max_tokens, floor=0.0), lm.sampling.seed
    found, drawn = list[tuple[tuple[int, ...], float]](), 0
    async with opened(verifier, lm) as judge, await lm.root(question.prompt) as root:
        goal = goal_of(question, lm, potential, judge, ledger)
        while drawn < lines and not ledger.exhausted:
            width = min(AT_ONCE, lines - drawn)
            async with Holding() as held:
                key = key_of(seed, ROLLOUTS, drawn)
                tried = await sweep(question, root, Weighted(NEUTRAL), plan, width, held, key)
                if tried.cut:
                    break  # of lines that were cut together, those that are whole are the short ones
                whole = [particle.tip for particle in tried.particles if particle.whole]
                values = await goal.log_potentials(whole, [True] * len(whole))
                found += [(prefix_of(tip, True).tokens, value) for tip, value in zip(whole, values, strict=True)]
            drawn += width
    return fit_twist(found, order, propose=propose, tokenizer=tokenizer_of(lm))
