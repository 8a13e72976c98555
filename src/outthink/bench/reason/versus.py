"""Small models that think against a large one that does not, at equal FLOPs, by difficulty."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import outthink
from outthink.bench.reason.ground import IN_FLIGHT, facts_of, kept, machine
from outthink.bench.reason.journal import Answers, Record
from outthink.bench.reason.plan import Cell, Group, ModelSource, Problems, Progress, cells_of, check_labels, draw_groups
from outthink.bench.reason.run import Job, Open, Stop, StoppedError, open_grounds
from outthink.bench.reason.summary import exact_difference, mean_of
from outthink.bench.reason.versus_picture import WHAT, draw
from outthink.core.budget import Budget
from outthink.core.errors import UserError
from outthink.core.estimate import Estimate, proportion

GREEDY = "greedy"
NO_LIMIT = Budget()


@dataclass(frozen=True, kw_only=True)
class VersusConfig(Problems):
    """``small`` models think by ``strategies`` on ``multiples`` of the FLOPs that the ``large`` one's greedy line takes
    on average over the problems of a difficulty.
    """

    small: tuple[ModelSource, ...]
    large: ModelSource
    strategies: tuple[str, ...]
    verifiers: tuple[str, ...] = ()
    multiples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels((*(model for model in self.small if model != self.large), self.large))
        if not self.small or not self.multiples or not all(0 < m < float("inf") for m in self.multiples):
            raise UserError(f"Multiples {self.multiples} must be numbers above 0, for at least one small model.")

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        small = {model.label: model.source for model in self.small}
        return {**asdict(self), "small": small, "large": {self.large.label: self.large.source}}


@dataclass(frozen=True)
class Row:
    """One way of answering the problems of one group.

    ``multiple``: of the large model's mean FLOPs that it was given; None for greedy lines, which take what they take.
    ``share``: the FLOPs that it took, as a share of the large model's. ``gain``: its accuracy less the large model's
    greedy one on the same problems; None for that itself.
    """

    suite: str
    difficulty: float | None
    model: str
    strategy: str
    verifier: str | None
    multiple: float | None
    accuracy: Estimate
    gain: Estimate | None
    flops: float
    share: float
    tokens: float
    seconds: float
    verifier_calls: float
    most_over: float

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        gain = None if self.gain is None else self.gain.to_json()
        return {**asdict(self), "accuracy": self.accuracy.to_json(), "gain": gain}


def run(
    config: VersusConfig,
    out: Path,
    open_model: Open,
    *,
    concurrency: int | None = None,
    stop: Stop | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure and write ``out`` (.json), its records and its picture, as `ground.run` does. Returns the result."""
    return asyncio.run(_run(config, out, open_model, concurrency or IN_FLIGHT, stop or Stop(), progress))


async def _run(
    config: VersusConfig, out: Path, open_model: Open, concurrency: int, stop: Stop, progress: Progress
) -> dict[str, Any]:
    groups = draw_groups(config, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        sources = (config.large, *config.small)
        grounds = await open_grounds(stack, sources, open_model, groups, config, config.verifiers, config.strategies)
        weights = {label: one.weights for label, one in grounds.items()}
        what = {"what": "small-vs-large", "version": outthink.__version__}
        journal = stack.enter_context(Answers(out, {**what, "config": config.to_json(), "weights": weights}))

        async def measure(label: str, cells_for: Callable[[Group], Sequence[Cell]]) -> None:
            jobs = [Job(cell, g, i) for i in range(config.num_problems) for g in groups for cell in cells_for(g)]
            grounds[label].check({job.cell for job in jobs})
            todo = [job for job in jobs if job.key not in journal.records]
            if todo and not stop.asked:
                await grounds[label].measure(todo, journal, concurrency, stop, progress)

        for label in grounds:
            await measure(label, lambda _, label=label: [Cell(label, GREEDY, None, NO_LIMIT)])
        if stop.asked:
            raise StoppedError(f"Stopped before the budgets were known: {kept(journal)}")
        limits = {group: _limits(config, journal, group) for group in groups}
        for source in config.small:
            await measure(source.label, lambda g, label=source.label: [c for c, _ in _cells(config, label, limits[g])])
        result = report(config, groups, limits, journal, progress)
        result["models"] = {label: facts_of(ground, []) for label, ground in grounds.items()}
        if result["complete"]:
            journal.pack()
    out.write_text(json.dumps(result, indent=1) + "\n")
    draw(json.loads(json.dumps(result)), out.with_suffix(".png"))
    return result


def report(
    config: VersusConfig,
    groups: Sequence[Group],
    limits: dict[Group, dict[float, Budget]],
    journal: Answers,
    progress: Progress,
) -> dict[str, Any]:
    """The result as plain JSON values, of the problems that are answered in every way."""
    rows: list[Row] = []
    complete = True
    for done, group in enumerate(groups):
        cells = _all_cells(config, limits[group])
        places = [(group.suite, group.difficulty, i) for i in range(config.num_problems)]
        whole = [p for p in places if all((*cell.key, *p) in journal.records for cell, _ in cells)]
        complete = complete and len(whole) == len(places)
        if whole:
            rows += _rows({w: [journal.records[*w[0].key, *p] for p in whole] for w in cells})
        progress(done + 1, len(groups), "working out intervals")
    if not rows:
        raise StoppedError(f"Stopped before any problem was answered in every way: {kept(journal)}")
    return {
        "what": WHAT,
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "machine": machine(),
        "config": config.to_json(),
        "rows": [row.to_json() for row in rows],
    }


Way = tuple[Cell, float | None]


def _cells(config: VersusConfig, label: str, limits: dict[float, Budget]) -> list[tuple[Cell, float]]:
    thinking = [name for name in config.strategies if name != GREEDY]
    return [
        (cell, multiple)
        for multiple, budget in limits.items()
        for cell in cells_of(label, thinking, config.verifiers, [budget])
    ]


def _all_cells(config: VersusConfig, limits: dict[float, Budget]) -> list[Way]:
    labels = dict.fromkeys(source.label for source in (config.large, *config.small))
    greedy: list[Way] = [(Cell(label, GREEDY, None, NO_LIMIT), None) for label in labels]
    return [*greedy, *(way for source in config.small for way in _cells(config, source.label, limits))]


def _limits(config: VersusConfig, journal: Answers, group: Group) -> dict[float, Budget]:
    """Multiple to budget: of the mean FLOPs of the large model's greedy lines over all problems of the group."""
    key = Cell(config.large.label, GREEDY, None, NO_LIMIT).key
    records = [journal.records[*key, group.suite, group.difficulty, i] for i in range(config.num_problems)]
    mean = mean_of(record.spent("flops") for record in records)
    return {multiple: Budget(flops=float(round(multiple * mean))) for multiple in sorted(set(config.multiples))}


def _rows(answers: dict[Way, list[Record]]) -> Iterable[Row]:
    (large, reference), *_ = answers.items()
    right, mean = tuple(r.right for r in reference), mean_of(r.spent("flops") for r in reference)
    for (cell, multiple), records in answers.items():
        own = tuple(record.right for record in records)
        flops = mean_of(record.spent("flops") for record in records)
        yield Row(
            records[0].suite,
            records[0].difficulty,
            cell.model,
            cell.strategy,
            cell.verifier,
            multiple,
            accuracy=proportion(own),
            gain=None if cell == large[0] else exact_difference(own, right),
            flops=flops,
            share=flops / mean,
            tokens=mean_of(record.spent("tokens") for record in records),
            seconds=mean_of(record.spent("seconds") for record in records),
            verifier_calls=mean_of(record.spent("verifier_calls") for record in records),
            most_over=max(record.over for record in records),
        )
