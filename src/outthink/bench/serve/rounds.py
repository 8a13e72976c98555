"""The measurement: in every round each server bears each load, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from outthink.bench.serve.guidellm import run_guidellm
from outthink.bench.serve.load import Shape, Tally, run_load
from outthink.bench.serve.memory import Memory
from outthink.bench.serve.servers import Server
from outthink.core.errors import CapabilityError

Progress = Callable[[int, int, str], None]
Generator = Literal["guidellm", "own"]
GENERATORS: tuple[Generator, ...] = ("guidellm", "own")


@dataclass(frozen=True)
class LoadConfig:
    """``rounds`` over all numbers of ``streams`` and servers, ``seconds`` of load each, made by ``generator``; before
    them ``warm_s`` of a load that is not counted.
    """

    streams: tuple[int, ...] = (1, 4, 16, 64)
    rounds: int = 3
    seconds: float = 30.0
    shape: Shape = field(default_factory=Shape)
    generator: Generator = "guidellm"
    seed: int = 0
    warm_s: float = 3.0


@dataclass
class Measured:
    """The figures of every finished load, in order, and the memory of each server over time."""

    loads: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    interrupted: bool = False


def measure(
    servers: Sequence[Server], config: LoadConfig, tokenizer: Path, python: Path | None, memory: Memory,
    directory: Path, progress: Progress,
) -> Measured:  # fmt: skip
    """Bear every load on every server; ctrl-C ends it, and what is finished stays.

    ``python`` is guidellm's interpreter, None for load of our own making.
    """
    measured = Measured()
    total = config.rounds * len(config.streams) * len(servers)
    try:
        for server in servers:  # what is done once only is not measured
            run_load(server, 2, config.warm_s, config.shape, -1)
        for number in range(config.rounds):
            for streams in config.streams:
                for server in servers:
                    done, what = len(measured.loads), f"{streams} streams on {server.name}, round {number + 1}"
                    progress(done, total, what)
                    memory.mark(server.name, what)
                    seed = (config.seed * 1000 + number) * 1000 + streams
                    found = _bear(server, streams, config, seed, tokenizer, python, directory, measured)
                    measured.loads.append({"server": server.name, "streams": streams, "round": number, **found})
            measured.rounds = number + 1
    except KeyboardInterrupt:
        measured.interrupted = True
    progress(total, total, "done")
    return measured


def _bear(
    server: Server, streams: int, config: LoadConfig, seed: int, tokenizer: Path, python: Path | None,
    directory: Path, measured: Measured,
) -> dict[str, Any]:  # fmt: skip
    if python is None:
        return figures(run_load(server, streams, config.seconds, config.shape, seed))
    try:
        return run_guidellm(python, server, tokenizer, streams, config.seconds, config.shape, seed, directory)
    except CapabilityError as error:  # the others may be borne
        measured.missing[f"{server.name}, {streams} streams"] = str(error)
        return {"requests": 0, "errors": 0, "failed": True}


def figures(tally: Tally) -> dict[str, Any]:
    """A tally under the names of a report; latencies between tokens are of single gaps. None where there is none."""
    return {
        "requests": len(tally.whole),
        "errors": len(tally.errors),
        "first_errors": tally.errors[:3],
        "dropped": tally.dropped,
        "tokens_per_s": tally.tokens / tally.seconds,
        "requests_per_s": len(tally.whole) / tally.seconds,
        "ttft_p50_s": quantile(tally.first, 0.5),
        "ttft_p99_s": quantile(tally.first, 0.99),
        "itl_p50_s": quantile(tally.gaps, 0.5),
        "itl_p99_s": quantile(tally.gaps, 0.99),
    }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that ``share`` of the values do not exceed (the nearest rank); None where there is none."""
    if not values:
        return None
    return sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]
