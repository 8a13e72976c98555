"""Independent populations side by side, as many as the budget can finish, and the posterior that they make together."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.rng import mix
from outthink.core.sampling import Until
from outthink.lm.protocol import Branch
from outthink.posterior.evidence import pool
from outthink.reason.holding import Holding, together
from outthink.reason.particles.sweep import Particle, Plan, Sweep, sweep
from outthink.reason.particles.target import Target
from outthink.reason.population import log_sum, weigh
from outthink.reason.waves import affordable

RESAMPLING = 0x5EED  # sets the random numbers of resampling apart from those of the tokens
NONE_PASSED = "no line passed the verifier"
SMALLEST = 4  # particles that an island has at least, where the budget does not even pay for two islands of them


class Run(Protocol):
    """What an island returns: the particles that it moved and the tokens that they drew."""

    @property
    def particles(self) -> Sequence[Particle]: ...

    @property
    def drawn(self) -> int: ...


R = TypeVar("R", bound=Run)
Island = Callable[[int, int, float], Coroutine[Any, Any, R]]
"""Given a number of its own, how many particles, and how many tokens they may take."""


async def run_islands(num: int, islands: int, ledger: Ledger, island: Island[R]) -> list[R]:
    """Runs with ``num`` particles in all, ``islands`` at a time; fewer particles once the ledger is exhausted.

    Where something is limited the first island is a single line, which should be written to its end even where it is
    ruled out; what that costs, verifier included, says how many more the rest can finish. Each particle may take an
    equal share of it, so that what it gets does not depend on how the engine interleaves it with other work.
    """
    runs, newest, launched, before = list[R](), list[R](), 0, ledger.bill.tokens
    while launched < num and not ledger.exhausted:
        width, purse = num - launched, ledger.tokens_left
        if runs and ledger.limited:
            drawn, longest = sum(s.drawn for s in runs), max(p.tokens for s in runs for p in s.particles)
            if not sum(s.drawn for s in newest):
                break  # what is left does not even buy the prompt, or a step
            purse *= min(1.0, drawn / max(1, ledger.bill.tokens - before))  # the rest goes to prompt and verifier
            width = min(width, affordable(ledger, launched, longest, purse, doubt=0.0))
        elif ledger.limited:
            width = 1
        sizes = split(width, max(1, min(islands, width // SMALLEST)))
        first = len(runs)
        newest = await together(island(first + i, size, purse * size / width) for i, size in enumerate(sizes))
        runs += newest
        launched += width
    return runs


def split(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` integers as equal as can be."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def posterior(question: Question, sweeps: Sequence[Sweep]) -> Posterior:
    """The law over answers of the whole lines of ``sweeps``.

    What lines that the budget cut weighed until then is unassigned. Where no whole line has any weight, those that the
    verifier ruled out vote. ``log_evidence`` is not set here.
    """
    cut = list[float]()
    shares: dict[Branch, list[float]] = {}
    particles = [p for one in sweeps for p in one.particles]
    for particle in particles:
        if particle.whole:
            shares.setdefault(particle.tip, []).append(particle.log_weight)
        elif particle.before is not None:
            alive = particle.log_weight > -math.inf
            cut.append(particle.log_weight)
            particle.tip.thought.fate = "cut by the budget" if alive else "ruled out"
    pooled = {tip: log_sum(weights) for tip, weights in shares.items()}
    total = log_sum(pooled.values())
    if total == -math.inf:
        found = replace(weigh(question, list(pooled)), stopped=NONE_PASSED)
    else:
        found = weigh(question, list(pooled), lambda tip: pooled[tip] - total)
        lost = log_sum([found.log_unassigned, *(weight - total for weight in cut)])
        stopped = "budget" if any(one.cut for one in sweeps) else found.stopped
        found = replace(found, log_unassigned=lost, stopped=stopped)
    return replace(found, attempts=len(particles))


def with_evidence(found: Posterior, sweeps: Sequence[Sweep]) -> Posterior:
    """``found`` with the log-evidence of those ``sweeps`` that ran to their end, its standard error, and how many did
    not.
    """
    done = [one for one in sweeps if not one.cut]
    if not done:
        return found
    evidence = pool([one.log_z for one in done], [len(one.particles) for one in done])
    return replace(
        found,
        log_evidence=evidence.log_z,
        log_evidence_se=evidence.se,
        evidence_runs=evidence.runs,
        evidence_cut=len(sweeps) - len(done),
    )


async def or_any_line(question: Question, root: Branch, plan: Plan, ledger: Ledger, found: Posterior) -> Posterior:
    """``found``; where every particle died before it gave an answer, that of one more line, which nobody judged."""
    if found.candidates or found.stopped != NONE_PASSED or ledger.exhausted:
        return found
    [line] = await root.extend(1, Until(None if plan.max_tokens == math.inf else int(plan.max_tokens)))
    async with line:
        last = weigh(question, [line])
        rest = log_sum([last.log_unassigned, math.log(found.attempts)])  # it is one of all the lines that were tried
        return replace(found, candidates=last.candidates, log_unassigned=rest, attempts=found.attempts + 1)


async def filter_islands(
    question: Question, root: Branch, target: Target, plan: Plan, seed: int, num: int, islands: int, ledger: Ledger
) -> Posterior:
    """The posterior of independent particle filters below ``root``."""

    async def island(number: int, size: int, purse: float) -> Sweep:
        async with Holding() as held:
            alone = ledger.limited and number == 0
            key = key_of(seed, number)
            return await sweep(question, root, target, plan, size, held, key, purse=purse, to_the_end=alone)

    sweeps = await run_islands(num, islands, ledger, island)
    found = with_evidence(posterior(question, sweeps), sweeps)
    return await or_any_line(question, root, plan, ledger, found)


def key_of(seed: int, *path: int) -> int:
    """The key of the random numbers of one sweep: apart from those of branches, which are drawn from ``seed`` too."""
    key = mix(seed, RESAMPLING)
    for number in path:
        key = mix(key, number)
    return key
