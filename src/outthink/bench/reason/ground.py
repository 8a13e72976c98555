"""From a configuration to a result: draw problems, answer what is not answered yet, work out figures, write, draw."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import outthink
from outthink.bench.reason.journal import Journal
from outthink.bench.reason.plan import Cell, GroundConfig, Progress, cells_of, check_budgets, draw_groups
from outthink.bench.reason.run import Ground, Stop, StoppedError, fingerprint, jobs_of
from outthink.bench.reason.scale import scale_of
from outthink.bench.reason.summary import best_of, points_of, tabulate
from outthink.lm.model import Model
from outthink.reason import STRATEGIES

Open = Callable[[str], Model]
IN_FLIGHT = 8


def in_flight(config: GroundConfig, wanted: int | None) -> int:
    """How many problems are answered at once: one where seconds are limited, for they are those of whoever waits."""
    return wanted or (1 if check_budgets(config.budgets) == "seconds" else IN_FLIGHT)


def records_path(out: Path) -> Path:
    """Where the records behind the result ``out`` are kept while they come; ``.gz`` is added once all are there."""
    return out.with_suffix(".records.jsonl")


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
    stop, groups = stop or Stop(), draw_groups(config, progress)
    cells: list[Cell] = []
    facts: dict[str, Any] = {}
    header = {"what": "reason", "version": outthink.__version__, "config": config.to_json()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        loaded = {source.label: stack.enter_context(open_model(source.source)) for source in config.models}
        header["weights"] = {label: fingerprint(model) for label, model in loaded.items()}
        journal = stack.enter_context(Journal(records_path(out), header))
        for label, model in loaded.items():
            own = cells_of(label, config.strategies, config.verifiers, config.budgets)
            ground = Ground(model, label, groups, config)
            ground.check(own)
            cells += own
            facts[label] = _facts(model, ground, own)
            todo = [job for job in jobs_of(own, groups) if job.key not in journal.records]
            if todo and not stop.asked:
                asyncio.run(ground.measure(todo, journal, in_flight(config, concurrency), stop, progress))
        complete = len(journal.records) == len(cells) * sum(len(group.problems) for group in groups)
        result = report(config, cells, journal, facts, complete, progress)
        result["problems_in_flight"] = in_flight(config, concurrency)
        if complete:
            journal.pack()
    write(result, out)
    return result


def report(
    config: GroundConfig,
    cells: Sequence[Cell],
    journal: Journal,
    models: dict[str, Any],
    complete: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The result as plain JSON values: what was run, on what, and every figure."""
    table = tabulate(cells, journal.records.values())
    if not any(table.values()):
        raise StoppedError(f"Stopped before any problem was answered in every cell: {kept(journal)}")
    return {
        "what": "accuracy of strategies at equal budgets",
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "machine": machine(),
        "models": models,
        "config": config.to_json(),
        "unit": check_budgets(config.budgets),
        "spending": {name: scale_of(STRATEGIES.get(name)).how for name in dict.fromkeys(c.strategy for c in cells)},
        "points": [point.to_json() for point in points_of(table, progress)],
        "best": [asdict(best) for best in best_of(table)],
    }


def kept(journal: Journal) -> str:
    """What is left of a run that was stopped, in words."""
    return f"{len(journal.records):,} answers are kept in {journal.path}, and the same command goes on from there."


def write(result: dict[str, Any], out: Path) -> list[Path]:
    """Write the result and its pictures; the files written."""
    from outthink.bench.reason.picture import draw

    out.write_text(json.dumps(result, indent=1) + "\n")
    return [out, *draw(json.loads(json.dumps(result)), out)]


def machine() -> dict[str, Any]:
    """What it was measured on."""
    import torch

    versions = {"outthink": outthink.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def _facts(model: Model, ground: Ground, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "source": str(model.loaded.source),
        "weights": fingerprint(model),
        "dtype": model.loaded.config.dtype,
        "backend": model.engine.backend.name,
        "typical_line_tokens": round(ground.line, 1),
        "options": {f"{cell.strategy}, {cell.budget}": ground.options(cell) for cell in cells},
    }
