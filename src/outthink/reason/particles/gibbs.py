"""Particle Gibbs over steps: sweeps that each keep one line of the last, by themselves or on a ladder of powers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.rng import uniforms
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding, together
from outthink.reason.particles.filters import PAPER, check_options, plan_of
from outthink.reason.particles.islands import key_of, or_any_line, posterior, run_islands, split, with_evidence
from outthink.reason.particles.sweep import Particle, Plan, Sweep, first_moves, sweep
from outthink.reason.particles.target import Target, Verified
from outthink.reason.segment import Segmenter
from outthink.verify import Verifier
from outthink.verify.needs import check_verifier

Line = Sequence[Particle]


@dataclass(frozen=True)
class Chain:
    """The sweeps of one chain at the target itself; ``drawn`` counts the tokens of all its replicas."""

    sweeps: list[Sweep]
    drawn: int

    @property
    def particles(self) -> list[Particle]:
        """All particles of all sweeps."""
        return [p for one in self.sweeps for p in one.particles]


@method(
    "particle-gibbs",
    family="particles",
    summary="A particle filter run again and again, each time around a line drawn from the last.",
    guarantee="consistent",
    promise="each sweep after the first leaves p(line) x exp(verifier score) invariant, for two particles or more, so "
    "that answer shares tend to it with the number of sweeps; the evidence comes from first sweeps and is unbiased",
    paper=PAPER + "; Andrieu, Doucet and Holenstein 2010, Particle Markov Chain Monte Carlo Methods, JRSS B 72",
    needs=("continuation",),
)
async def particle_gibbs(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    chains: int = 2,
    sweeps: int = 4,
    floor: float = 0.5,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """``n`` particles, shared out over ``chains`` independent chains of ``sweeps`` sweeps each."""
    check_options(chains=chains, sweeps=sweeps)
    plan, target = plan_of(steps, max_tokens, floor=floor), Verified(question, verifier, ledger)
    check_verifier(lm, target.verifier)
    return await _chains(question, lm, target, [plan], ledger, n, chains, sweeps)


@method(
    "tempered-particle-gibbs",
    family="particles",
    summary="Particle Gibbs beside copies of itself that trust the verifier less; lines are swapped between them.",
    guarantee="consistent",
    promise="as particle-gibbs: swaps between neighbours on the ladder leave the law of all of them invariant",
    paper=PAPER + ", parallel tempering; Geyer 1991, Markov Chain Monte Carlo Maximum Likelihood",
    needs=("continuation",),
)
async def tempered_particle_gibbs(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    chains: int = 2,
    sweeps: int = 4,
    powers: Sequence[float] = (1.0, 0.5),
    floor: float = 0.5,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Replica k targets p(line) x exp(``powers[k]`` x verifier score); the first power must be 1, and only its sweeps
    enter the posterior.
    """
    check_options(chains=chains, sweeps=sweeps)
    if not powers or powers[0] != 1 or not all(0 <= power <= 1 for power in powers):
        raise UserError(f"powers={powers!r} must begin with 1 and go on with numbers between 0 and 1.")
    plan, target = plan_of(steps, max_tokens, floor=floor), Verified(question, verifier, ledger)
    check_verifier(lm, target.verifier)
    plans = [replace(plan, power=power) for power in powers]
    return await _chains(question, lm, target, plans, ledger, n, chains, sweeps)


async def _chains(
    question: Question,
    lm: LM,
    target: Target,
    plans: Sequence[Plan],
    ledger: Ledger,
    n: int,
    chains: int,
    sweeps: int,
) -> Posterior:
    async with await lm.root(question.prompt) as root:

        async def chain(number: int, size: int, purse: float) -> Chain:
            ladder = plans if size >= 2 * sweeps * len(plans) else plans[:1]  # a few particles buy no replicas
            made = _Ladder(question, root, target, ladder, key_of(lm.sampling.seed, number))
            return await made.run(max(1, min(sweeps, size // (2 * len(ladder)))), size, purse)

        made = await run_islands(n, chains, ledger, chain)
        found = posterior(question, [one.normalised for chain in made for one in chain.sweeps])
        found = with_evidence(found, [chain.sweeps[0] for chain in made if chain.sweeps])
        return await or_any_line(question, root, plans[0], ledger, found)


class _Ladder:
    """Replicas of one chain, the first at the target, each with the line that it retains."""

    def __init__(self, question: Question, root: Branch, target: Target, plans: Sequence[Plan], key: int) -> None:
        self.question, self.root, self.target, self.plans, self.key = question, root, target, plans, key

    async def run(self, num_sweeps: int, size: int, purse: float) -> Chain:
        """``size`` particles in all, as many in each sweep of each replica; fewer sweeps once ``purse`` is spent."""
        replicas, sizes = len(self.plans), split(size // len(self.plans), num_sweeps)
        fresh = [sizes[0], *(max(1, num - 1) for num in sizes[1:])]  # of later sweeps, one particle is retained
        lines: list[Line] = [[] for _ in self.plans]
        done = list[Sweep]()
        async with Holding() as held:
            total = sum(fresh) * replicas
            first = await first_moves(self.question, self.root, self.target, self.plans[0], total, held, purse)
            drawn = sum(p.tokens for p in first)
            for number, num in enumerate(fresh):
                share = (purse - drawn) / (num_sweeps - number) / replicas
                starts, first = first[: num * replicas], first[num * replicas :]
                made = await together(
                    self._sweep(k, plan, starts[k * num : (k + 1) * num], lines[k], held, number, share)
                    for k, plan in enumerate(self.plans)
                )
                drawn += sum(one.drawn for one, _ in made)
                if not (done and made[0][0].cut):
                    done.append(made[0][0])
                if any(one.cut for one, _ in made):
                    break
                lines = self._swap([line for _, line in made], number)
                await held.keep(p.tip for line in [*lines, first] for p in line)
                for particle in (p for one, _ in made[1:] for p in one.particles):
                    particle.tip.thought.fate = particle.tip.thought.fate or "of a warmer replica"
        return Chain(done, drawn)

    async def _sweep(
        self, replica: int, plan: Plan, first: Line, retained: Line, held: Holding, number: int, purse: float
    ) -> tuple[Sweep, Line]:
        """One sweep around ``retained``, and the line drawn from it, whose branches ``held`` then holds."""
        key, num = key_of(self.key, replica, number), len(first) + bool(retained)
        options: dict[str, Any] = {"purse": purse, "retained": retained, "first": first, "keep_lines": True}
        options["to_the_end"] = num == 1 and not retained
        async with Holding() as own:
            one = await sweep(self.question, self.root, self.target, plan, num, own, key, **options)
            chosen = one.draw(_uniform(key_of(key, 1)))
            line = [] if chosen is None else chosen.line
            held.take(own, (p.tip for p in line))
        return one, line

    def _swap(self, lines: list[Line], number: int) -> list[Line]:
        """Neighbours exchange their lines with the Metropolis probability; pairs alternate from sweep to sweep."""
        for k in range(number % 2, len(lines) - 1, 2):
            if lines[k] and lines[k + 1]:
                power = self.plans[k].power - self.plans[k + 1].power
                gain = power * (lines[k + 1][-1].log_potential - lines[k][-1].log_potential)
                if math.log(_uniform(key_of(self.key, len(lines) + k, number))) < gain:
                    lines[k], lines[k + 1] = lines[k + 1], lines[k]
        return lines


def _uniform(key: int) -> float:
    return float(uniforms(np.array([key], np.uint64), np.zeros(1, np.uint64))[0])
