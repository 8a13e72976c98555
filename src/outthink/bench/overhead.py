"""What our engine spends beside the model's own steps: drawing tokens, and scheduling and bookkeeping."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outthink import __version__
from outthink.core.estimate import Estimate, median_ratio
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.step import DecodeBatch, Decoded, Int32s, Laws, StepBatch
from outthink.lm.model import Model, resolve
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.hub import resolve_source
from outthink.models.opened import MappedWeights, open_model

Progress = Callable[[int, int, str], None]

CASES = (("outthink-m", 1, 256), ("outthink-m", 8, 128), ("outthink-m", 64, 64), ("outthink-s", 1, 256))
ROUNDS = 9
PROMPT = 32  # tokens


@dataclass(frozen=True)
class Case:
    """``branches`` of one prompt that draw ``new_tokens`` each, at temperature 1, with ``threads`` in the kernels."""

    model: str
    branches: int
    new_tokens: int
    threads: int


@dataclass(frozen=True)
class Times:
    """Seconds of the stepping thread: of all, inside the backend, and of that in the model's own steps."""

    total: float
    backend: float
    forward: float

    def __sub__(self, other: Times) -> Times:
        return Times(self.total - other.total, self.backend - other.backend, self.forward - other.forward)


class TimedBackend(CpuBackend):
    """The compiled kernels, and how much processor time of the stepping thread went into calls of them."""

    cpu = wall = 0.0

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """See `Backend.run`."""
        return self._timed(lambda: super(TimedBackend, self).run(batch))

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """See `Backend.copy_pages`."""
        self._timed(lambda: super(TimedBackend, self).copy_pages(source, target))

    def sample(self, logits: NDArray[np.float32], positions: Int32s, laws: Laws) -> Any:
        """See `Decoder.sample`."""
        return self._timed(lambda: super(TimedBackend, self).sample(logits, positions, laws))

    def decode(self, batch: DecodeBatch, steps: int, seconds: float, interrupt: Int32s) -> Decoded:
        """See `Decoder.decode`."""
        return self._timed(lambda: super(TimedBackend, self).decode(batch, steps, seconds, interrupt))

    def _timed(self, call: Callable[[], Any]) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return call()
        finally:
            self.cpu += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall


def measure(case: Case, rounds: int = ROUNDS, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The shares of a case, by processor time of the stepping thread and by wall time, over ``rounds`` after one more.

    Processor time leaves out what else the machine does; with several threads, what helpers compute too.
    """
    opened = open_model(resolve_source(resolve(case.model)))
    config = opened.config
    backend = TimedBackend(
        opened,
        num_pages=(case.branches + 1) * -(-(PROMPT + case.new_tokens + 1) // 16) + 16,
        threads=case.threads,
        weight_format="bfloat16",
        kv_format="bfloat16",
        tensors=MappedWeights(opened),
    )
    costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
    engine = Engine(backend, opened.tokenizer, costs, config.max_positions)
    with Model(opened, EngineThread(engine)) as model:
        found = asyncio.run(_rounds(model, backend, case, rounds, progress))
    cpu, wall, steps = zip(*found, strict=True)
    return {
        **asdict(case),
        "steps": steps[0],
        "step_microseconds": float(np.median([each.total / n * 1e6 for each, n in zip(cpu, steps, strict=True)])),
        "cpu": _shares(cpu),
        "wall": _shares(wall),
    }


def run(
    out: Path, threads: int, rounds: int = ROUNDS, progress: Progress = lambda *_: None, cases: Sequence = CASES
) -> dict[str, Any]:
    """Measure all cases and write ``out`` (.json); the result."""
    rows, done = [], 0
    for name, branches, new_tokens in cases:
        case = Case(name, branches, new_tokens, threads)

        def advance(case: Case = case) -> None:
            nonlocal done
            progress(done, len(cases) * (rounds + 1), f"{case.model}, {case.branches} branches")
            done += 1

        rows.append(measure(case, rounds, advance))
    result = {
        "what": "shares of the engine's time beside the model's own steps: drawing tokens; scheduling and bookkeeping",
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"outthink": __version__, "python": platform.python_version()},
        "rows": rows,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


async def _rounds(
    model: Model, backend: TimedBackend, case: Case, rounds: int, progress: Callable[[], None]
) -> list[tuple[Times, Times, int]]:
    """Processor time, wall time and steps of each round; the first, which warms up, is left out."""

    def now() -> tuple[Times, Times, int]:
        cpu = Times(time.thread_time(), backend.cpu, backend.forward_cpu())
        wall = Times(time.perf_counter(), backend.wall, backend.forward_seconds)
        return cpu, wall, model.engine.stats.steps

    root = await model.session(sampling=Sampling()).root(list(range(8, 8 + PROMPT)))
    [first] = await root.extend(1, Until(1, ignore_eos=True))
    found = []
    for _ in range(rounds + 1):
        progress()
        before: Any = model.thread.call(now)
        lines = await first.extend(case.branches, Until(case.new_tokens, ignore_eos=True))
        after: Any = model.thread.call(now)
        found.append((after[0] - before[0], after[1] - before[1], after[2] - before[2]))
        for line in lines:
            await line.close()
    await first.close()
    await root.close()
    return found[1:]


def _shares(times: Sequence[Times]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, with intervals."""

    def share(part: Callable[[Times], float]) -> dict[str, Any]:
        estimate: Estimate = median_ratio([part(each) for each in times], [each.total for each in times])
        return estimate.to_json()

    return {
        "drawing": share(lambda each: each.backend - each.forward),
        "bookkeeping": share(lambda each: each.total - each.backend),
        "overhead": share(lambda each: each.total - each.forward),
    }
