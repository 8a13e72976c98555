"""The machine of a measurement: what it is, what else it is doing, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from outthink.kernels.cpu.extension import compiled, usable_cores

TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "asimd", "i8mm", "bf16")
BUSY_PER_CORE = 0.25
READ_MIB = 512


def describe(threads: int) -> dict[str, Any]:
    """Processor, the instruction sets that matter here, cores, threads in use and the load of the last minute."""
    lines = _cpu_lines()
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "cores": usable_cores(),
        "threads": threads,
        "load_average": os.getloadavg()[0],
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether other programs were running when ``machine`` was described: its figures are then too low, unevenly."""
    return machine["load_average"] > BUSY_PER_CORE * machine["cores"]


def read_bandwidth(threads: int, mib: int = READ_MIB) -> float | None:
    """Bytes per second that threads read from a block far larger than the caches; None without compiled kernels."""
    extension = compiled()
    return None if extension is None else extension.read_bandwidth(mib, threads)


def _cpu_lines() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    pairs = (line.partition(":") for line in file.read_text().splitlines()) if file.is_file() else ()
    found: dict[str, str] = {}
    for name, _, value in pairs:
        found.setdefault(name.strip(), value.strip())
    return found
