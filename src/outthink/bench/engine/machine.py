"""The machine of a measurement: what it is, what else it is doing, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.bench.engine.workloads import BITS, FORMATS, Bits
from outthink.kernels.cpu.extension import compiled, usable_cores

TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "asimd", "i8mm", "bf16")
BUSY_PER_CORE = 0.15
WATCHED_S = 1.0
READ_MIB = 512


def describe(threads: int) -> dict[str, Any]:
    """Processor, the instruction sets that matter here, cores, threads to be used, and cores that others use now."""
    lines = _cpu_lines()
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "cores": usable_cores(),
        "threads": threads,
        "cores_in_use": _cores_in_use(),
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether other programs were running when ``machine`` was described: its figures are then too low, unevenly."""
    return machine["cores_in_use"] > BUSY_PER_CORE * machine["cores"]


@dataclass(frozen=True)
class Limits:
    """What the machine does at most: bytes read per second, and multiplications per second by the weights' bits."""

    read_bytes_per_s: float
    multiplications_per_s: dict[Bits, float]


def measure_limits(threads: int, mib: int = READ_MIB) -> Limits | None:
    """Read a block far larger than the caches, and multiply what is in the nearest; None without compiled kernels."""
    extension = compiled()
    if extension is None:
        return None
    read = extension.read_bandwidth(mib, threads)
    rates: dict[Bits, float] = {bits: extension.multiply_rate(FORMATS[bits], "auto", threads) for bits in BITS}
    return Limits(read, rates)


def _cores_in_use() -> float:
    """Over a second from now; the load of the last minute, which may be over, where the system does not tell."""
    file = Path("/proc/stat")
    if not file.is_file():
        return os.getloadavg()[0]

    def ticks() -> tuple[int, int]:
        numbers = [int(word) for word in file.read_text().splitlines()[0].split()[1:]]
        return sum(numbers[:8]), numbers[3] + numbers[4]  # guests are counted twice after the eighth; idle, waiting

    whole, idle = ticks()
    time.sleep(WATCHED_S)
    later, idle_later = ticks()
    cores = os.cpu_count() or 1
    return cores * (1 - (idle_later - idle) / max(later - whole, 1))


def _cpu_lines() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    pairs = (line.partition(":") for line in file.read_text().splitlines()) if file.is_file() else ()
    found: dict[str, str] = {}
    for name, _, value in pairs:
        found.setdefault(name.strip(), value.strip())
    return found
