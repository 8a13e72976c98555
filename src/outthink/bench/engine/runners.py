"""The runners that are compared, and the environment that each of the others lives in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from outthink.bench.engine.workloads import BITS, Bits
from outthink.core.errors import CapabilityError, UnknownNameError

DRIVERS = Path(__file__).parent / "drivers"
OURS = "outthink"
READY = "ready.json"
TAIL = 12


@dataclass(frozen=True)
class Runner:
    """``script`` of `DRIVERS` drives it in ``environment`` (ours if None), with weights in the format ``weights``.

    ``bits`` that it has; ``options`` go into its ``load`` request.
    """

    name: str
    script: str
    environment: str | None
    weights: str
    bits: tuple[Bits, ...] = BITS
    options: tuple[tuple[str, object], ...] = ()


RUNNERS = (
    Runner(OURS, "drive_ours.py", None, "hf"),
    Runner("llama.cpp", "drive_llama_cpp.py", "llama.cpp", "gguf"),
    Runner("OpenVINO", "drive_openvino.py", "openvino", "openvino"),
    Runner("transformers", "drive_transformers.py", "transformers", "hf", ("bf16",), (("compiled", False),)),
    Runner("transformers compiled", "drive_transformers.py", "transformers", "hf", ("bf16",), (("compiled", True),)),
)

# What pip is asked for, in this order. torch goes first and is named again: asked for by another package, pip might
# pick a newer build with gigabytes of CUDA.
TORCH = ("torch>=2.11,<2.14",)
# Asked for by name: what optillm itself asks for has no solution that pip finds within minutes.
_OPTILLM_NEEDS = (
    *("flask", "cerebras_cloud_sdk", "openai", "z3-solver<=4.15.4.0", "sympy", "networkx", "scikit-learn", "nbconvert"),
    *("nbformat", "ipython", "ipykernel", "math-verify", "PyYAML", "requests", "aiohttp", "tiktoken", "azure-identity"),
    *("transformers>=5,<5.13", "beautifulsoup4", "lxml", "peft"),
)
INSTALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "llama.cpp": (("--no-binary", "llama-cpp-python", "llama-cpp-python[server]"),),
    # The converter asks for torchvision, whose build on PyPI is CUDA's, breaks on torch's for CPUs, and is not used.
    "openvino": (
        ("--no-deps", "optimum-intel>=2.2,<2.3", "optimum>=2.3,<2.4"),
        TORCH,
        ("openvino-genai", "nncf>=3.3", "transformers>=4.51,<5.6", "huggingface-hub<1.22", "setuptools", *TORCH),
    ),
    "transformers": (TORCH, ("transformers>=5,<6", *TORCH)),
    # Clients of our server, and makers of load.
    "guidellm": (TORCH, ("guidellm>=0.8", *TORCH)),
    "lm-eval": (TORCH, ("lm-eval[api]>=0.4.13", "transformers>=5,<6", "z3-solver>=4.13", "scipy>=1.12", *TORCH)),
    "its-hub": (("its-hub[lm]>=1.2",),),
    "dspy": (("dspy>=3.4",),),
    "genlm-control": (TORCH, ("genlm-control>=0.4.1", *TORCH)),
    "treequest": (("treequest>=0.3.3",),),
    "optillm": (("--no-deps", "optillm==0.4.0"), TORCH, (*_OPTILLM_NEEDS, *TORCH)),
}
BUILD_SETTINGS = {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}


def default_directory() -> Path:
    """Where environments and converted weights are kept: a folder of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "outthink" / "peers"


def find_runners(names: Iterable[str]) -> tuple[Runner, ...]:
    """Those of these names, ours first in any case; all without names. Raises UnknownNameError."""
    known, wanted = {runner.name: runner for runner in RUNNERS}, list(names)
    for name in wanted:
        if name not in known:
            raise UnknownNameError("runner", name, known)
    return tuple(runner for runner in RUNNERS if not wanted or runner.name in (OURS, *wanted))


def python_of(runner: Runner, directory: Path) -> Path:
    """The interpreter of a runner. Raises CapabilityError where its environment has not been set up."""
    if runner.environment is None:
        return Path(sys.executable)
    place = directory / runner.environment
    if not (place / READY).is_file():
        raise CapabilityError(f"No environment in {place}; make it with 'outthink bench engine --set-up'.")
    return _python(place)


def set_up(environment: str, directory: Path, say: Callable[[str], None]) -> None:
    """Make an environment and install its packages; nothing where that has been done. ``say`` gets pip's lines.

    A package that is compiled is compiled for this processor, at the lowest priority. The whole output goes to
    ``<environment>.log``. Raises CapabilityError with its end where a step fails.
    """
    place = directory / environment
    if (place / READY).is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    python, log = _python(place), directory / f"{environment}.log"
    log.write_text("")
    if not python.is_file():
        _execute([sys.executable, "-m", "venv", str(place)], log, say)
    for packages in INSTALLS[environment]:
        _execute([str(python), "-m", "pip", "install", "--disable-pip-version-check", *packages], log, say)
    frozen = subprocess.run(  # noqa: S603
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    packages = {package["name"]: package["version"] for package in json.loads(frozen.stdout)}
    (place / READY).write_text(json.dumps(packages, indent=1) + "\n")


def environment_python(environment: str, say: Callable[[str], None], directory: Path | None = None) -> Path:
    """The interpreter of an environment, which is made where it is not there yet. Raises CapabilityError."""
    place = directory or default_directory()
    set_up(environment, place, say)
    return _python(place / environment)


def convert(environment: str, directory: Path, arguments: list[str], say: Callable[[str], None]) -> None:
    """Run a program of an environment. Raises CapabilityError with the end of what it printed where it fails."""
    command = [str(directory / environment / "bin" / arguments[0]), *arguments[1:]]
    _execute(command, directory / f"{environment}-convert.log", say)


def _python(place: Path) -> Path:
    return place / "bin" / "python"


def _execute(command: list[str], log: Path, say: Callable[[str], None]) -> None:
    lines: list[str] = []
    process = subprocess.Popen(  # noqa: S603
        ["nice", "-n", "19", *command],  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **BUILD_SETTINGS},
    )
    try:
        assert process.stdout is not None
        with log.open("a") as file:
            for line in process.stdout:
                file.write(line)
                lines = [*lines[1 - TAIL :], line.rstrip()]
                say(line.strip())
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode != 0:
        end = " | ".join(line for line in lines if line)
        raise CapabilityError(f"'{' '.join(command)}' failed ({process.returncode}); see {log}. It ended: {end}")
