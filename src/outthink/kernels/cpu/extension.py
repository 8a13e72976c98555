"""The compiled extension, which a machine without a compiler does not have."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

MAX_HEAD_DIM = 512
MAX_QUERIES_PER_KV_HEAD = 64
PAGE_SIZE = 16


def compiled() -> ModuleType | None:
    """The extension module, or None where it was not built."""
    try:
        return importlib.import_module("outthink.kernels.cpu._core")
    except ModuleNotFoundError as error:
        if error.name != "outthink.kernels.cpu._core":
            raise
        return None


def why_not(config: Any) -> str | None:
    """Why `CpuBackend` cannot run a model of this `ModelConfig`, as one sentence; None if it can."""
    if compiled() is None:
        return "The compiled CPU kernels are missing; install Outthink where a C++20 compiler is available."
    if config.head_dim > MAX_HEAD_DIM or config.head_dim % 2:
        return f"The CPU kernels take an even head_dim up to {MAX_HEAD_DIM}; this model has {config.head_dim}."
    if config.num_heads > MAX_QUERIES_PER_KV_HEAD * config.num_kv_heads:
        return f"The CPU kernels take up to {MAX_QUERIES_PER_KV_HEAD} query heads for each key-value head."
    return None


def usable_cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
