"""``outthink doctor``: what this machine has, what runs on it, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import outthink
from outthink.cli.console import err, out, print_json
from outthink.cli.options import JsonOption

OPTIONAL: Mapping[str, tuple[str, str]] = {
    "matplotlib": ("matplotlib", "pictures of measurements"),
    "z3": ("z3-solver", "constraint problems and their checker"),
    "scipy": ("scipy", "intervals of measurements"),
    "transformers": ("transformers", "the oracle of the tests"),
    "hypothesis": ("hypothesis", "property-based tests"),
}
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
PLUGIN_GROUPS = ("outthink.strategies", "outthink.verifiers", "outthink.tasks")


def doctor(json: JsonOption = False) -> None:
    """Say what machine this is, which kernels are in use and why, and what is missing and how to get it."""
    with err().status("looking"):
        found = examine()
    if json:
        print_json(found)
        return
    console = out()
    for title, rows in found.items():
        console.print(Text(title, style="bold"))
        made = Table.grid(padding=(0, 2, 0, 0))
        made.add_column(style="dim", no_wrap=True)
        made.add_column(overflow="fold")
        for name, value in rows.items():
            made.add_row(f"  {name}", _told(value))
        console.print(made)


def examine() -> dict[str, dict[str, Any]]:
    """Sections of findings: program, machine, torch, kernels, models, optional parts."""
    return {
        "program": {
            "outthink": outthink.__version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "plugins": [f"{entry.name} ({group})" for group in PLUGIN_GROUPS for entry in entry_points(group=group)],
        },
        "machine": _machine(),
        "torch": _torch(),
        "kernels": _kernels(),
        "models": _models(),
        "optional parts": {name: _part(name) for name in OPTIONAL},
    }


def _machine() -> dict[str, Any]:
    info = _cpu_info()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": f"{cores} usable of {os.cpu_count()}",
        "memory": f"{memory / 2**30:.1f} GiB",
        "disk free here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }


def _cpu_info() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    entry = file.read_text(errors="replace").split("\n\n")[0]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in entry.splitlines())}


def _torch() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": gpus if gpus else _why_no_cuda(torch.version.cuda),
    }


def _why_no_cuda(built_for: str | None) -> str:
    if built_for is None:
        return "none: this torch is a CPU build; with an NVIDIA GPU, install one from https://pytorch.org"
    return f"none: this torch is built for CUDA {built_for}, but no GPU and driver answer (see nvidia-smi)"


def _kernels() -> dict[str, Any]:
    import torch

    from outthink.kernels.cpu.extension import compiled

    extension = compiled()
    if extension is None:
        cpu = (
            "missing: models run on plain torch, several times slower. To get them, have a C++20 compiler and install "
            "Outthink again: pip install --force-reinstall --no-deps outthink (or -e . in a clone)"
        )
    else:
        cpu = f"compiled, for {', '.join(extension.usable_isas())}; in use for every model on the CPU that they cover"
    cuda = "plain torch, in use with --device cuda" if torch.cuda.is_available() else "not in use: no CUDA device"
    return {"cpu": cpu, "cuda": cuda}


def _models() -> dict[str, Any]:
    from outthink.kernels.cpu.extension import why_not
    from outthink.lm.model import BUNDLED, bundled_models
    from outthink.models.opened import read_config

    names, rows = bundled_models(), {}
    for number, name in enumerate(names):
        config, files = read_config(BUNDLED / name), list((BUNDLED / name).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / 1e6
        default = ", the default" if number == 0 else ""
        runs = f"runs on plain torch: {reason}" if (reason := why_not(config)) else "runs on the compiled kernels"
        rows[name] = f"{config.model_type}, context {config.max_positions:,}, {size:.1f} MB{default}; {runs}"
    return rows or {"bundled": "none: name a model with --model, a directory or a Hugging Face hub id"}


def _part(name: str) -> str:
    package, purpose = OPTIONAL[name]
    if find_spec(name) is None:
        return f"missing ({purpose}): pip install {package}"
    try:
        return f"{version(package)} ({purpose})"
    except PackageNotFoundError:
        return f"importable ({purpose})"


def _told(value: Any) -> Text:
    text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    missing = text.startswith(("missing", "none:"))
    return Text(text, style="yellow" if missing else "")
