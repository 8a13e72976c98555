"""How many problems a second each family generates, on one core."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from outthink import __version__
from outthink.core.estimate import Estimate, median_ratio
from outthink.tasks.families import get_family
from outthink.tasks.suites import get_suite

Progress = Callable[[int, int, str], None]

ROUNDS, ROUND_SECONDS = 9, 0.1


def rates(suite: str, difficulties: Sequence[float], progress: Progress = lambda *_: None) -> list[dict[str, Any]]:
    """For each family of ``suite`` and each difficulty, problems generated in a second of processor time.

    The rounds of all go in turn, so that whatever else the machine does falls on all alike; processor time does not
    count it at all.
    """
    cells = [(family, difficulty) for family, _ in get_suite(suite).shares for difficulty in difficulties]
    made: dict[tuple[str, float], list[tuple[int, float]]] = {cell: [] for cell in cells}
    for number in range(-1, ROUNDS):  # the first round, in which modules are imported, is not counted
        for done, cell in enumerate(cells):
            progress((number + 1) * len(cells) + done, (ROUNDS + 1) * len(cells), f"{cell[0]} {cell[1]:g}")
            one = _round(*cell, seed=(number + 1) << 20)
            if number >= 0:
                made[cell].append(one)
    return [{"family": f, "difficulty": d, "rate": _rate(made[f, d]).to_json()} for f, d in cells]


def run(suite: str, difficulties: Sequence[float], out: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Measure and write ``out`` (.json); the result."""
    result = {
        "what": "problems generated in a second of processor time",
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count()},
        "versions": {"outthink": __version__, "python": platform.python_version()},
        "suite": suite,
        "rows": rates(suite, difficulties, progress),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _round(name: str, difficulty: float, seed: int) -> tuple[int, float]:
    """How many problems were generated from ``seed`` on, and in how many seconds."""
    family, number, started = get_family(name), 0, time.process_time()
    while (spent := time.process_time() - started) < ROUND_SECONDS:
        family.generate(seed + number, difficulty)
        number += 1
    return number, spent


def _rate(rounds: Sequence[tuple[int, float]]) -> Estimate:
    return median_ratio([float(count) for count, _ in rounds], [seconds for _, seconds in rounds])
