"""The same weights in every runner's format, converted once and kept beside the environments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outthink.bench.engine.runners import Runner, convert
from outthink.bench.engine.workloads import Bits

GGUF_KINDS = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
SMALL_PARAMETERS = 100_000_000


@dataclass(frozen=True)
class Subject:
    """A model to measure: a directory in the Hugging Face format, and how the report calls it."""

    name: str
    directory: Path

    @property
    def small(self) -> bool:
        """Whether its steps are short, so that workloads must be longer."""
        return sum(file.stat().st_size for file in self.directory.glob("*.safetensors")) < 2 * SMALL_PARAMETERS

    @property
    def vocab_size(self) -> int:
        return json.loads((self.directory / "config.json").read_text())["vocab_size"]


def weights_of(subject: Subject, runner: Runner, bits: Bits, directory: Path, say: Callable[[str], None]) -> Path:
    """What ``runner`` loads, converted where it has not been.

    "int4" has groups of 32 with a 16-bit scale for all, which is what Q4_0 means. Raises CapabilityError where a
    program that converts fails.
    """
    if runner.weights == "hf":
        return subject.directory
    place = directory / "weights" / f"{subject.name}-{_digest(subject.directory)}"
    place.mkdir(parents=True, exist_ok=True)
    if runner.weights == "gguf":
        return _gguf(subject, place / f"{bits}.gguf", GGUF_KINDS[bits])
    return _openvino(subject, place / f"openvino-{bits}", bits, directory, say)


def _gguf(subject: Subject, path: Path, kind: str) -> Path:
    from outthink.quant.gguf import write_gguf

    if not path.is_file():
        writing = path.with_suffix(".writing")
        write_gguf(subject.directory, writing, kind)
        writing.rename(path)
    return path


def _openvino(subject: Subject, path: Path, bits: Bits, directory: Path, say: Callable[[str], None]) -> Path:
    formats = {
        "bf16": ["--weight-format", "fp16"],
        "int8": ["--weight-format", "int8"],
        "int4": ["--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"],
    }
    if not (path / "openvino_model.bin").is_file():
        writing = path.with_name(path.name + ".writing")
        task = ["--task", "text-generation-with-past"]
        arguments = ["optimum-cli", "export", "openvino", "--model", str(subject.directory), *task, *formats[bits]]
        convert("openvino", directory, [*arguments, str(writing)], say)
        writing.rename(path)
    return path


def _digest(directory: Path) -> str:
    """Of everything that decides what is converted."""
    state = hashlib.sha256()
    for file in [*sorted(directory.glob("*.safetensors")), directory / "config.json", directory / "tokenizer.json"]:
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()[:12]
