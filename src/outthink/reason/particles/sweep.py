"""One sweep of sequential Monte Carlo over branches: move, weigh, resample, until every line is whole.

This one loop serves the filters, particle Gibbs, tempering, token-level and twisted SMC: they differ in their targets,
in when they resample, and in whether one line is retained (Del Moral, Doucet and Jasra 2006; Andrieu, Doucet and
Holenstein 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from outthink.core.question import Question
from outthink.core.rng import uniforms
from outthink.core.sampling import Until
from outthink.lm.protocol import Branch
from outthink.posterior.resampling import (
    Resampler,
    conditional_multinomial,
    effective_size,
    flatten,
    log_mean_exp,
    normalise,
    systematic,
)
from outthink.reason.holding import Holding, together
from outthink.reason.particles.target import Target
from outthink.reason.segment import Segmenter


@dataclass(frozen=True, eq=False)
class Particle:
    """A line on its way: its ``tip`` and the log-potential of that, its log-weight, and how it came to be.

    ``log_weight`` is complete (nats): the mean of exp(log_weight) over a population estimates its normalising constant.
    ``log_ratio``: of base law to sampling law over the last move. ``tokens``: on the line so far. ``cut``: the budget
    ended it. ``before``: the particle that this one was before its last move.
    """

    tip: Branch
    log_weight: float = 0.0
    log_potential: float = 0.0
    log_ratio: float = 0.0
    tokens: int = 0
    whole: bool = False
    cut: bool = False
    before: Particle | None = field(default=None, repr=False)

    @property
    def live(self) -> bool:
        """Whether it is to move on."""
        return not (self.whole or self.cut) and self.log_weight > -math.inf

    @property
    def line(self) -> list[Particle]:
        """This particle after each of its moves."""
        line, at = list[Particle](), self
        while at.before is not None:
            line.append(at)
            at = at.before
        return line[::-1]


@dataclass(frozen=True)
class Plan:
    """How a sweep is run.

    A particle moves ``every`` steps of ``segmenter`` at a time, up to ``max_tokens`` on its line. After a move the
    population is resampled where ``size`` of its weights is below ``floor`` times its number; ``flat``: no further than
    brings the size up to the floor. The log-potential counts times ``power``, and on unfinished lines times ``early``.
    """

    segmenter: Segmenter
    max_tokens: float = math.inf
    every: int = 1
    resample: Resampler = systematic
    size: Callable[[Any], float] = effective_size
    floor: float = 0.5
    flat: bool = False
    power: float = 1.0
    early: float = 1.0

    def log_factor(self, log_potential: float, whole: bool) -> float:
        """What a log-potential counts for."""
        factor = self.power if whole else self.power * self.early
        return factor * log_potential if factor else (0.0 if log_potential > -math.inf else -math.inf)

    def log_increment(self, before: Particle, after: Particle) -> float:
        """By how much a move changes the log-weight: what counts now less what was counted then."""
        old = self.log_factor(before.log_potential, False)
        return after.log_ratio + self.log_factor(after.log_potential, after.whole) - old


@dataclass(frozen=True)
class Sweep:
    """The population at the end of a sweep; ``drawn``: tokens that it sampled; ``cut``: the budget ended it before all
    lines were whole.
    """

    particles: list[Particle]
    drawn: int
    cut: bool

    @property
    def log_z(self) -> float:
        """The log of the estimated normalising constant, in nats; its exponential is unbiased unless cut."""
        return log_mean_exp([p.log_weight for p in self.particles])

    @property
    def normalised(self) -> Sweep:
        """The same with weights of mean 1, so that sweeps count by their size and not by their evidence."""
        log_z = self.log_z
        if log_z == -math.inf:
            return self
        return replace(self, particles=[replace(p, log_weight=p.log_weight - log_z) for p in self.particles])

    def draw(self, uniform: float) -> Particle | None:
        """A particle drawn by weight; None where none is left alive."""
        if self.log_z == -math.inf:
            return None
        (index,) = systematic([p.log_weight for p in self.particles], np.array([uniform]))
        return self.particles[index]


async def sweep(
    question: Question,
    root: Branch,
    target: Target,
    plan: Plan,
    num: int,
    held: Holding,
    key: int,
    *,
    purse: float = math.inf,
    retained: Sequence[Particle] = (),
    first: Sequence[Particle] = (),
    keep_lines: bool = False,
    to_the_end: bool = False,
) -> Sweep:
    """Move ``num`` particles from ``root`` until all are whole, or ``purse`` tokens are spent.

    ``first``: where they are after their first move, if that was made already; see `first_moves`. ``retained`` is a
    line that particle 0 follows whatever happens (conditional SMC: the rest must be resampled multinomially, and are);
    its branches are held elsewhere. ``key`` keys the random numbers of resampling. Branches in ``held`` are closed once
    nothing can come of them, earlier tips too unless ``keep_lines``. ``to_the_end``: a line that is ruled out is
    written on all the same, unjudged and without weight, for what lines cost must be learned from a whole one.
    """
    particles, step, drawn = [Particle(root)] * num, 0, 0
    while any(p.live for p in particles):
        share = (purse - drawn) / max(1, sum(p.live for p in particles[bool(retained) :]))
        if share < 1:
            return Sweep(particles, drawn, True)
        mover = _Mover(question, target, plan, held, share)
        particles = await mover.move(particles, retained[step : step + 1], () if step else first)
        drawn += mover.drawn
        if any(p.cut for p in particles):
            return Sweep(particles, drawn, True)
        if any(p.live for p in particles):
            draws = uniforms(np.full(num, key, np.uint64), np.arange(step * num, (step + 1) * num, dtype=np.uint64))
            particles = resample(particles, plan, draws, bool(retained))
        await held.keep(at.tip for p in particles for at in (p.line if keep_lines else [p]))
        step += 1
    if to_the_end:
        mover = _Mover(question, target, plan, held, purse - drawn)
        particles = [p if p.whole else await mover.write_on(p) for p in particles]
        drawn += mover.drawn
    return Sweep(particles, drawn, False)


async def first_moves(
    question: Question, root: Branch, target: Target, plan: Plan, num: int, held: Holding, purse: float
) -> list[Particle]:
    """``num`` particles after their first move, for sweeps yet to come.

    A branch's children draw their random numbers in the order in which they are asked for. Sweeps that go on side by
    side would ask at times that depend on the engine; so all first moves of all of them are asked for at once.
    """
    mover = _Mover(question, target, plan, held, max(1.0, purse / num), merging=False)  # no two sweeps share a tip
    return await mover.grow(Particle(root), 0.0, num, plan.every, max(1.0, purse / num))


def resample(particles: list[Particle], plan: Plan, draws: Any, conditional: bool) -> list[Particle]:
    """The population resampled, if its weights are uneven enough.

    A copy of particle i, drawn with probability q_i each of N times, weighs w_i / (N q_i). The expected total of the
    copies is then the total of the originals, for any q and any rule for when to resample that looks at this population
    only: that is why the estimated normalising constant stays unbiased. With q = w all copies weigh the mean.
    """
    num, log_weights = len(particles), np.array([p.log_weight for p in particles])
    if log_weights.max() == -math.inf or plan.size(log_weights) >= plan.floor * num:
        return particles
    priority = flatten(log_weights, plan.size, plan.floor * num) if plan.flat and not conditional else log_weights
    ancestors = (conditional_multinomial if conditional else plan.resample)(priority, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_copies = log_weights - np.log(num * normalise(priority))
    for i in set(range(num)).difference(ancestors.tolist()):
        particles[i].tip.thought.fate = "resampled away" if log_weights[i] > -math.inf else "ruled out"
    return [replace(particles[i], log_weight=float(log_copies[i])) for i in ancestors]


class _Mover:
    """One move of a population. Copies of a particle go on from the same tip, as do, if ``merging``, those that drew
    the same tokens from one: what follows is computed once for them. Nothing in a move waits for anything.
    """

    def __init__(
        self, question: Question, target: Target, plan: Plan, held: Holding, share: float, *, merging: bool = True
    ) -> None:
        self.question, self.target, self.plan, self.held, self.share = question, target, plan, held, share
        self.merging, self.drawn = merging, 0

    async def move(
        self, particles: Sequence[Particle], along: Sequence[Particle], made: Sequence[Particle]
    ) -> list[Particle]:
        """The population after its move; particle 0 becomes the one in ``along``, if there is one, and the others
        those that were ``made`` already.
        """
        if made:
            moved = [*along, *made]
            return [self._weigh(after, before) for after, before in zip(moved, particles, strict=True)]
        moved = [*along, *particles[len(along) :]]
        groups: dict[tuple[Branch, int], list[int]] = {}
        for i, particle in enumerate(particles):
            if particle.live and i >= len(along):  # copies in one call, unless the next step would wait for all of them
                groups.setdefault((particle.tip, i if self.plan.every > 1 else 0), []).append(i)
        grown = await together(
            self.grow(particles[who[0]], 0.0, len(who), self.plan.every, self.share) for who in groups.values()
        )
        for who, children in zip(groups.values(), grown, strict=True):
            for i, child in zip(who, children, strict=True):
                moved[i] = child
        return [after if after is p else self._weigh(after, p) for after, p in zip(moved, particles, strict=True)]

    def _weigh(self, after: Particle, before: Particle) -> Particle:
        """The particle after its move, in its place in the population. Copies had a weight each before it."""
        return replace(after, before=before, log_weight=before.log_weight + self.plan.log_increment(before, after))

    async def grow(self, particle: Particle, log_ratio: float, count: int, steps: int, share: float) -> list[Particle]:
        """``count`` continuations by up to ``steps`` steps, each of up to ``share`` tokens in all."""
        plan, target = self.plan, self.target
        until = plan.segmenter.until(min(share, plan.max_tokens - particle.tokens))
        drawn = self.held.add(await particle.tip.extend(count, until, target.sampling(particle.tip)))
        self.drawn += sum(len(child.tokens) for child in drawn)
        children = merge(drawn) if self.merging else drawn
        whole = {child: self._is_whole(particle, child, until) for child in children if child.finish != "budget"}
        values = await target.log_potentials(list(whole), list(whole.values())) if whole else []
        scores, grown = dict(zip(whole, values, strict=True)), list[Particle]()
        for own, child in zip(drawn, children, strict=True):
            own.thought.value = value = scores.get(child, particle.log_potential)
            ratio = log_ratio + (_log_ratio(child) if target.corrected else 0.0)
            length, cut = particle.tokens + len(child.tokens), child not in whole
            grown.append(Particle(child, 0.0, value, ratio, length, whole.get(child, False), cut))
        if steps == 1:
            return grown
        return await together(self._further(p, steps - 1, share - len(p.tip.tokens)) for p in grown)

    async def _further(self, particle: Particle, steps: int, share: float) -> Particle:
        if share < 1 or particle.whole or particle.cut or particle.log_potential == -math.inf:
            return particle
        [particle] = await self.grow(particle, particle.log_ratio, 1, steps, share)
        return particle

    async def write_on(self, particle: Particle) -> Particle:
        """A particle that was ruled out at the end of its line: without weight, and whole unless the budget cut it."""
        most = min(self.share, self.plan.max_tokens - particle.tokens)
        [line] = self.held.add(await particle.tip.extend(1, Until(None if most == math.inf else max(1, int(most)))))
        self.drawn += len(line.tokens)
        tokens, whole = particle.tokens + len(line.tokens), line.finish != "budget" and len(line.tokens) < most
        return replace(particle, tip=line, tokens=tokens, whole=whole, before=particle)

    def _is_whole(self, particle: Particle, child: Branch, until: Until) -> bool:
        full = particle.tokens + len(child.tokens) >= self.plan.max_tokens
        return full or self.plan.segmenter.is_whole(self.question, child, until)


def merge(children: Sequence[Branch]) -> list[Branch]:
    """``children`` of one branch, the first of those with the same tokens in place of each of them."""
    first = dict[Any, Branch]()
    merged = [first.setdefault((tuple(child.tokens), child.finish, child.ended), child) for child in children]
    for child, twin in zip(children, merged, strict=True):
        if twin is not child:
            child.thought.fate = "the same as a sibling"
    return merged


def _log_ratio(child: Branch) -> float:
    """The log of model law over sampling law of a branch's own tokens."""
    return math.fsum(child.log_probs) - math.fsum(child.sample_log_probs)
