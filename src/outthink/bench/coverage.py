"""How often one greedy line, one sample, and any of k samples are right: per family and difficulty, on fresh problems.

All samples of a problem are children of one root, so its prompt is computed once; a few problems are in flight at a
time, so that the engine's batch stays full. Each problem's record is written as it is finished.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from outthink.bench.journal import Journal
from outthink.bench.provenance import provenance, weights_sha256
from outthink.core.estimate import Estimate, mean, paired_mean_difference, pass_at_k, proportion
from outthink.core.sampling import Sampling
from outthink.lm.model import Model
from outthink.lm.protocol import Branch
from outthink.reason.solve import ask
from outthink.tasks.problem import Problem
from outthink.tasks.suites import draw_problems, get_suite

Progress = Callable[[int, int, str], None]

GAIN_AT = 64


@dataclass(frozen=True)
class CoverageConfig:
    """``num_problems`` of the test split for each family of ``suite`` and each difficulty in 0..1; ``num_samples``
    lines of each, a power of two. ``minutes``: after so long no more problems are begun (None: no limit).
    """

    suite: str = "outthink-core"
    difficulties: tuple[float, ...] = (0.1, 0.3, 0.5)
    num_problems: int = 40
    num_samples: int = 256
    temperature: float = 1.0
    seed: int = 0
    minutes: float | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """The k of coverage: powers of two up to the number of samples."""
        return tuple(1 << power for power in range(self.num_samples.bit_length()))


@dataclass(frozen=True)
class Job:
    """The problem of rank ``index`` in its cell, which is a family at a difficulty."""

    index: int
    problem: Problem


@dataclass(frozen=True)
class Outcome:
    """What came of one problem: ``right`` has a 1 or a 0 for each sample, in the order of their random keys.

    ``key`` is the problem's hash; ``tokens`` counts all sampled ones, ``unfinished`` the samples that ran into the end
    of the context.
    """

    family: str
    difficulty: float
    index: int
    key: str
    prompt_tokens: int
    greedy: bool
    right: str
    tokens: int
    unfinished: int

    @property
    def place(self) -> tuple[str, float, int]:
        return self.family, self.difficulty, self.index


@dataclass(frozen=True)
class Cell:
    """One family at one difficulty. ``coverage[k]``: the chance that any of k samples is right; ``gain`` is coverage at
    ``gain_at`` samples minus greedy accuracy, on the same problems.
    """

    family: str
    difficulty: float
    greedy: Estimate
    coverage: dict[int, Estimate]
    gain_at: int
    gain: Estimate
    line_tokens: float
    unfinished: float
    problems: list[tuple[str, int, int]]  # (key, greedy right, samples right) of each

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("family", "difficulty", "gain_at", "line_tokens", "unfinished")},
            "n": self.greedy.n,
            "greedy": self.greedy.to_json(),
            "coverage": {str(k): estimate.to_json() for k, estimate in self.coverage.items()},
            "gain": self.gain.to_json(),
            "problems": self.problems,
        }


def draw_jobs(config: CoverageConfig, progress: Progress = lambda *_: None) -> list[Job]:
    """Every problem to be measured; the first of each cell, then the second of each, so that all cells grow evenly."""
    suite = get_suite(config.suite)
    places = [(family, difficulty) for family, _ in suite.shares for difficulty in config.difficulties]
    drawn = []
    for done, (family, difficulty) in enumerate(places):
        progress(done, len(places), "drawing problems")
        problems = draw_problems(family, difficulty, "test", config.num_problems, config.seed)
        drawn.append([p.rerender(p.seed) if suite.rerendered else p for p in problems])
    return [Job(index, cell[index]) for index in range(config.num_problems) for cell in drawn]


async def measure(model: Model, job: Job, config: CoverageConfig) -> Outcome:
    """Sample one problem, and answer it greedily; a prompt that does not fit the context is answered wrongly."""
    lm = model.session(sampling=Sampling(temperature=config.temperature, seed=config.seed))
    problem, count = job.problem, config.num_samples
    question = ask(problem, chat=model.loaded.tokenizer.chat_template is not None)
    prompt_tokens = len(lm.encode(question.prompt))

    def outcome(greedy: bool, right: str, tokens: int, unfinished: int) -> Outcome:
        where = (problem.family, problem.difficulty, job.index, problem.key, prompt_tokens)
        return Outcome(*where, greedy, right, tokens, unfinished)

    def is_right(line: Branch) -> bool:
        answer = question.answer_of(line)
        return answer is not None and problem.check(answer)

    if prompt_tokens >= model.engine.max_positions:
        return outcome(False, "0" * count, 0, count)
    async with await lm.root(question.prompt) as root:
        # The samples are asked for first, so that sample k is the root's k-th child whatever else is measured.
        samples, [greedy] = await asyncio.gather(
            root.extend(count), root.extend(1, sampling=replace(lm.sampling, temperature=0.0))
        )
        for line in (greedy, *samples):
            await line.close()
    return outcome(
        is_right(greedy),
        "".join("01"[is_right(line)] for line in samples),
        sum(len(line.tokens) for line in samples),
        sum(line.finish != "stop" for line in samples),
    )


async def measure_all(
    model: Model, jobs: Iterable[Job], config: CoverageConfig, keep: Callable[[Outcome], None], stop: Callable[[], bool]
) -> None:
    """Measure ``jobs`` in their order, handing each outcome to ``keep``; begins no more of them once ``stop`` says so.

    Those that were begun are finished, so which problems are measured does not depend on how long their lines are.
    """
    in_flight = 1 + -(-model.engine.scheduler.limits.max_sequences // config.num_samples)
    queue = iter(jobs)

    async def work() -> None:
        for job in queue:
            if stop():
                return
            keep(await measure(model, job, config))

    workers = [asyncio.ensure_future(work()) for _ in range(in_flight)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()


def cells(outcomes: Iterable[Outcome], counts: Sequence[int]) -> list[Cell]:
    """The figures of every family and difficulty, in that order; intervals are over problems."""
    members: dict[tuple[str, float], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.place):
        members.setdefault((outcome.family, outcome.difficulty), []).append(outcome)
    return [_cell(family, difficulty, found, counts) for (family, difficulty), found in members.items()]


def _cell(family: str, difficulty: float, outcomes: Sequence[Outcome], counts: Sequence[int]) -> Cell:
    greedy = [outcome.greedy for outcome in outcomes]
    at = {k: [pass_at_k(len(o.right), o.right.count("1"), k) for o in outcomes] for k in counts}
    gain_at = min(GAIN_AT, counts[-1])
    lines = sum(len(outcome.right) for outcome in outcomes)
    return Cell(
        family,
        difficulty,
        proportion(greedy),
        # With k at its largest, a problem is covered or not.
        {k: proportion([v == 1 for v in at[k]]) if k == counts[-1] else mean(at[k], (0.0, 1.0)) for k in counts},
        gain_at,
        paired_mean_difference(at[gain_at], [float(right) for right in greedy], (0.0, 1.0)),
        sum(outcome.tokens for outcome in outcomes) / lines,
        sum(outcome.unfinished for outcome in outcomes) / lines,
        [(o.key, int(o.greedy), o.right.count("1")) for o in outcomes],
    )


def run(
    model: Model,
    config: CoverageConfig,
    out: Path,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure, go on from the records beside ``out`` where there are some, and write ``out`` (.json); the result.

    Cut short by ``stop`` or by ``config.minutes`` it reports what there is and keeps the records, so that the same
    command goes on later. Raises UserError where the records beside ``out`` are of another model or setting.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(out, _header(model, config))
    known = {outcome.place: outcome for outcome in (Outcome(**record) for record in journal.read())}
    jobs = draw_jobs(config, progress)
    wanted = {(job.problem.family, job.problem.difficulty, job.index) for job in jobs}
    done = {place: outcome for place, outcome in known.items() if place in wanted}
    started, before = time.monotonic(), len(done)
    deadline = None if config.minutes is None else started + 60 * config.minutes

    def keep(outcome: Outcome) -> None:
        journal.append(asdict(outcome))
        known[outcome.place] = done[outcome.place] = outcome
        progress(len(done), len(jobs), f"{outcome.family} {outcome.difficulty:g}")

    def over() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    progress(before, len(jobs), "sampling")
    left = [job for job in jobs if (job.problem.family, job.problem.difficulty, job.index) not in done]
    asyncio.run(measure_all(model, left, config, keep, over))
    journal.pack(asdict(known[place]) for place in sorted(known))
    result = {
        "what": "greedy accuracy and coverage",
        **provenance(model),
        "config": asdict(config),
        "complete": len(done) == len(jobs),
        "this_sitting": {"problems": len(done) - before, "seconds": round(time.monotonic() - started, 1)},
        "cells": [cell.to_json() for cell in cells(done.values(), config.counts)],
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _header(model: Model, config: CoverageConfig) -> dict[str, Any]:
    """What records must agree in to be of one measurement; it may grow by problems and difficulties."""
    same = {name: getattr(config, name) for name in ("suite", "num_samples", "temperature", "seed")}
    return {"what": "coverage", "weights": weights_sha256(model), "dtype": model.loaded.config.dtype, **same}
