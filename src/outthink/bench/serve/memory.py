"""The memory of processes over time, read a few times a second beside what is measured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

from outthink.bench.serve.servers import Server

EVERY_S = 0.5
KEPT = 1200


@dataclass
class Memory:
    """Readings of every server's resident memory while the block runs: seconds since its beginning, and bytes."""

    servers: Sequence[Server]
    readings: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    marks: list[tuple[float, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = perf_counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.readings = {server.name: [] for server in self.servers}

    def mark(self, server: str, what: str) -> None:
        """Note that something begins on a server."""
        self.marks.append((perf_counter() - self._start, server, what))

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def to_json(self) -> dict[str, Any]:
        """For each server its readings, thinned out, with the first, the last and the highest in bytes."""
        return {name: summary(readings) for name, readings in self.readings.items() if readings}

    def _read(self) -> None:
        while not self._over.wait(EVERY_S):
            now = perf_counter() - self._start
            for server in self.servers:
                if (held := server.rss) > 0:
                    self.readings[server.name].append((now, held))


def summary(readings: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """What readings come to; ``growth_bytes_per_min`` is the slope of a line through their second half."""
    step = -(-len(readings) // KEPT)
    late = readings[len(readings) // 2 :]
    return {
        "first_bytes": readings[0][1],
        "last_bytes": readings[-1][1],
        "peak_bytes": max(held for _, held in readings),
        "growth_bytes_per_min": 60 * slope(late),
        "readings": [[round(at, 2), held] for at, held in readings[::step]],
    }


def slope(readings: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line; 0 through fewer than two points."""
    count = len(readings)
    if count < 2:
        return 0.0
    middle = sum(at for at, _ in readings) / count
    level = sum(held for _, held in readings) / count
    spread = sum((at - middle) ** 2 for at, _ in readings)
    return sum((at - middle) * (held - level) for at, held in readings) / spread if spread else 0.0
