"""A long load on our server alone: memory must stay flat and no page may be left behind, though clients leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outthink.bench.serve.load import Shape, run_load
from outthink.bench.serve.memory import Memory
from outthink.bench.serve.rounds import figures
from outthink.bench.serve.servers import Server

STREAMS, DROP_EVERY = 16, 8
FLAT_BYTES_PER_MIN = 1 << 20


def soak(
    server: Server, minutes: float, shape: Shape, seed: int, memory: Memory, progress: Callable[[float], None]
) -> dict[str, Any]:
    """`STREAMS` streams for so long; the client of every eighth request leaves in its midst.

    ``flat``: over the second half, memory grew by less than 1 MiB a minute. ``left``: pages and branches that the
    server still holds when nobody asks any more.
    """
    tally = run_load(server, STREAMS, 60 * minutes, shape, seed, drop_every=DROP_EVERY, progress=progress)
    held = memory.to_json()[server.name]
    return {
        "minutes": minutes,
        "streams": STREAMS,
        "drop_every": DROP_EVERY,
        **figures(tally),
        "memory": held,
        "flat": held["growth_bytes_per_min"] < FLAT_BYTES_PER_MIN,
        "left": left_behind(server),
    }


def left_behind(server: Server) -> dict[str, float]:
    """What our server's own gauges say of work that is not over; the last request's end may still be under way."""
    import time

    import httpx

    names = ("kv_cache_usage_perc", "num_sequences_running", "num_sequences_waiting", "num_requests_running")
    found: dict[str, float] = {}
    for _ in range(100):
        text = httpx.get(f"{server.url}/metrics", timeout=60).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        found = {key: float(value) for name, _, value in lines if (key := _gauge(name)) in names}
        if not any(found.values()):
            break
        time.sleep(0.1)
    return found


def _gauge(name: str) -> str:
    return name.partition("{")[0].rpartition(":")[2]
