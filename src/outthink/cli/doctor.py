"""``outthink doctor``: what this machine has, what runs on it, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import outthink
from outthink.cli.console import err, out, print_json
from outthink.cli.options import JsonOption, user_warnings

OPTIONAL: Mapping[str, tuple[str, str]] = {
    "matplotlib": ("matplotlib", "pictures of measurements"),
    "z3": ("z3-solver", "constraint problems and their checker"),
    "scipy": ("scipy", "intervals of measurements"),
    "transformers": ("transformers", "the oracle of the tests"),
    "hypothesis": ("hypothesis", "property-based tests"),
}
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
PLUGIN_GROUPS = ("outthink.strategies", "outthink.verifiers", "outthink.tasks")


# Memory for keys and values, of which a model that is only looked at needs little.
_KV_GIB = 0.25


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model to open too: a directory, a hub id, or a bundled model's name.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what machine this is, which kernels are in use and why, and what is missing and how to get it.

    With MODEL, also what that model is computed by, in which formats, and what could not be taken as it is stored.
    """
    with err().status("looking"):
        found = examine() if model is None else {model: examine_model(model), **examine()}
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


def examine_model(source: str) -> dict[str, Any]:
    """What computes the model ``source`` on the CPU, found out by opening it. Raises what `outthink.load` raises."""
    from outthink.kernels.cpu.backend import CpuBackend
    from outthink.lm.model import open_backend, resolve

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        loaded, backend = open_backend(resolve(source), "auto", "cpu", "auto", _KV_GIB)
    rows = {"model": f"{loaded.config.model_type}, context {loaded.config.max_positions:,}, {loaded.source}"}
    if isinstance(backend, CpuBackend):
        megabytes = f"{backend.weight_bytes / 1e6:,.1f} MB"
        rows |= {
            "computed by": f"the compiled kernels for {backend.isa}, {backend.threads} threads",
            "weights": f"{backend.weight_format}; a step reads {megabytes}",
            "keys and values": backend.kv_format,
        }
    else:
        rows |= {"computed by": "plain torch", "weights": loaded.config.dtype, "keys and values": loaded.config.dtype}
    return rows | {"notes": user_warnings(warned)}


def _machine() -> dict[str, Any]:
    from outthink.kernels.cpu.extension import usable_cores

    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
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

    from outthink.kernels.cpu.extension import compiled, why_missing

    extension = compiled()
    if extension is None:
        cpu = (
            f"missing: models run on plain torch, several times slower. {why_missing()} With a C++20 compiler: "
            "pip install --force-reinstall --no-deps outthink (or -e . in a clone)"
        )
    else:
        best, *others = extension.usable_isas()
        rest = f" ({', '.join(others)} usable too)" if others else ""
        cpu = f"compiled; in use for every model on the CPU that they cover, with {best}{rest}"
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
