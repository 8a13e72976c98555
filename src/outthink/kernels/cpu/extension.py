"""The compiled extension, which a machine without a compiler does not have."""

from __future__ import annotations

import importlib
import math
import os
from types import ModuleType
from typing import Any

from outthink.kernels.cpu.quota import cpu_quota

MAX_HEAD_DIM = 512
MAX_QUERIES_PER_KV_HEAD = 64
PAGE_SIZE = 16
_NAME = "outthink.kernels.cpu._core"


def compiled() -> ModuleType | None:
    """The extension module, or None where it was not built or cannot be loaded."""
    found = _find()
    return None if isinstance(found, str) else found


def why_missing() -> str | None:
    """Why there is no extension module and what to do, as one sentence; None where there is one."""
    found = _find()
    return found if isinstance(found, str) else None


def _find() -> ModuleType | str:
    try:
        return importlib.import_module(_NAME)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == _NAME:
            return "The compiled CPU kernels are missing; install Outthink where a C++20 compiler is available."
        reason = " ".join(str(error).split()).rstrip(".")
        return f"The compiled CPU kernels cannot be loaded ({reason}); install Outthink again on this machine."


def why_not(config: Any) -> str | None:
    """Why `CpuBackend` cannot run a model of this `ModelConfig`, as one sentence; None if it can."""
    if (missing := why_missing()) is not None:
        return missing
    if config.head_dim > MAX_HEAD_DIM or config.head_dim % 2:
        return f"The CPU kernels take an even head_dim up to {MAX_HEAD_DIM}; this model has {config.head_dim}."
    if config.num_heads > MAX_QUERIES_PER_KV_HEAD * config.num_kv_heads:
        return f"The CPU kernels take up to {MAX_QUERIES_PER_KV_HEAD} query heads for each key-value head."
    return None


def usable_cores() -> int:
    """How many processors this process may use; a part of one that its control group allows counts as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))
