"""From a configuration to a result: draw problems, answer what is not answered yet, work out figures, write, draw."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import outthink
from outthink.bench.reason.journal import Answers
from outthink.bench.reason.picture import WHAT, draw
from outthink.bench.reason.plan import Cell, GroundConfig, Progress, cells_of, check_budgets, draw_groups
from outthink.bench.reason.run import Ground, Open, Stop, StoppedError, jobs_of, open_grounds
from outthink.bench.reason.summary import best_of, points_of, tabulate
from outthink.reason.scale import scale_of

IN_FLIGHT = 8


def in_flight(config: GroundConfig, wanted: int | None) -> int:
    """How many problems are answered at once: one where seconds are limited, for they are those of whoever waits."""
    return wanted or (1 if check_budgets(config.budgets) == "seconds" else IN_FLIGHT)


def run(
    config: GroundConfig,
    out: Path,
    open_model: Open,
    *,
    concurrency: int | None = None,
    stop: Stop | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure and write: ``out`` (.json), its records beside it, and pictures. Returns the result.

    What the records hold already is not measured again; a stop or a kill loses the problems in flight alone, and the
    result is then of the problems that every cell of a model has answered. Raises UserError where the records are those
    of another configuration.
    """
    return asyncio.run(_run(config, out, open_model, in_flight(config, concurrency), stop or Stop(), progress))


async def _run(
    config: GroundConfig, out: Path, open_model: Open, concurrency: int, stop: Stop, progress: Progress
) -> dict[str, Any]:
    groups = draw_groups(config, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        grounds = await open_grounds(
            stack, config.models, open_model, groups, config, config.verifiers, config.strategies
        )
        weights = {label: one.weights for label, one in grounds.items()}
        header = {"what": "reason", "version": outthink.__version__, "config": config.to_json(), "weights": weights}
        journal = stack.enter_context(Answers(out, header))
        cells = {name: cells_of(name, config.strategies, config.verifiers, config.budgets) for name in grounds}
        for label, ground in grounds.items():
            ground.check(cells[label])
        for label, ground in grounds.items():
            todo = [job for job in jobs_of(cells[label], groups) if job.key not in journal.records]
            if todo and not stop.asked:
                await ground.measure(todo, journal, concurrency, stop, progress)
        together = [cell for own in cells.values() for cell in own]
        complete = len(journal.records) == len(together) * sum(len(group.problems) for group in groups)
        facts = {label: facts_of(ground, cells[label]) for label, ground in grounds.items()}
        result = report(config, together, journal, facts, complete, progress)
        result["problems_in_flight"] = concurrency
        if complete:
            journal.pack()
    write(result, out)
    return result


def report(
    config: GroundConfig,
    cells: Sequence[Cell],
    journal: Answers,
    models: dict[str, Any],
    complete: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The result as plain JSON values: what was run, on what, and every figure."""
    table = tabulate(cells, journal.records.values())
    if not any(table.values()):
        raise StoppedError(f"Stopped before any problem was answered in every cell: {kept(journal)}")
    return {
        "what": WHAT,
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "machine": machine(),
        "models": models,
        "config": config.to_json(),
        "unit": check_budgets(config.budgets),
        "spending": {name: scale_of(name).how for name in dict.fromkeys(c.strategy for c in cells)},
        "points": [point.to_json() for point in points_of(table, progress)],
        "best": [asdict(best) for best in best_of(table)],
    }


def kept(journal: Answers) -> str:
    """What is left of a run that was stopped, in words."""
    return f"{len(journal.records):,} answers are kept in {journal.path}, and the same command goes on from there."


def write(result: dict[str, Any], out: Path) -> list[Path]:
    """Write the result and its pictures; the files written."""
    out.write_text(json.dumps(result, indent=1) + "\n")
    return [out, *draw(json.loads(json.dumps(result)), out)]


def machine() -> dict[str, Any]:
    """What it was measured on."""
    import torch

    versions = {"outthink": outthink.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def facts_of(ground: Ground, cells: Sequence[Cell]) -> dict[str, Any]:
    """A model under measurement as plain JSON values, with the options that its strategies ran with."""
    model = ground.model
    return {
        "weights": ground.weights,
        "dtype": model.loaded.config.dtype,
        "backend": model.engine.backend.name,
        "typical_line_tokens": round(ground.line, 1),
        "options": {f"{cell.strategy}, {cell.budget}": ground.options(cell) for cell in cells},
    }
