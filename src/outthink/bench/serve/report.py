"""From loads to medians, ratios and a JSON result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import Any

from outthink.bench.engine.machine import is_busy
from outthink.bench.serve.rounds import LoadConfig, Measured
from outthink.bench.serve.servers import OURS, THEIRS

FIGURES = ("tokens_per_s", "requests_per_s", "ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")


def points_of(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each server and number of streams the medians over the rounds, each round's values, and all errors."""
    points = []
    for server, streams in dict.fromkeys((load["server"], load["streams"]) for load in loads):
        mine = [load for load in loads if (load["server"], load["streams"]) == (server, streams)]
        rounds = {name: [v for load in mine if (v := load.get(name)) is not None] for name in FIGURES}
        points.append(
            {
                "server": server,
                "streams": streams,
                "requests": sum(load["requests"] for load in mine),
                "errors": sum(load["errors"] for load in mine),
                **{name: median(values) if values else None for name, values in rounds.items()},
                "rounds": rounds,
            }
        )
    return points


def ratios_of(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours over theirs at each number of streams, round by round: the median ratio with the least and the greatest.

    Of throughput more is better, of latencies less.
    """
    by_place = {(load["server"], load["streams"], load["round"]): load for load in loads}
    found = []
    for streams in dict.fromkeys(load["streams"] for load in loads):
        rounds = sorted({load["round"] for load in loads})
        pairs = [(by_place.get((OURS, streams, r), {}), by_place.get((THEIRS, streams, r), {})) for r in rounds]
        entry: dict[str, Any] = {"streams": streams}
        for name in FIGURES:
            each = [a[name] / b[name] for a, b in pairs if a.get(name) is not None and b.get(name)]
            if each:
                entry[name] = {"median": median(each), "low": min(each), "high": max(each), "rounds": len(each)}
        found.append(entry)
    return found


def report(
    measured: Measured,
    config: LoadConfig,
    machine: dict[str, Any],
    memory: dict[str, Any],
    soaked: dict[str, Any] | None,
    about: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "what": "servers side by side under load",
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine, "busy": is_busy(machine)},
        "config": asdict(config),
        **about,
        "rounds": measured.rounds,
        "interrupted": measured.interrupted,
        "points": points_of(measured.loads),
        "ratios": ratios_of(measured.loads),
        "missing": measured.missing,
        "memory": memory,
        "soak": soaked,
        "loads": measured.loads,
    }
