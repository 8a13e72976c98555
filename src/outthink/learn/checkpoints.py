"""Where a training run keeps its state: atomic, checked, without pickle.

``<run>/run.json`` holds the settings, ``<run>/tokenizer.json`` the tokenizer, and ``<run>/checkpoints/step-N/`` the
state after N steps: ``state.safetensors`` and ``state.json``. A checkpoint appears by one rename, complete or not at
all; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from outthink.core.errors import CheckpointError
from outthink.models.fields import read_json

_STATE, _TENSORS, _PREFIX, _PARTIAL = "state.json", "state.safetensors", "step-", ".partial-"
_KEPT = 2


@dataclass
class Progress:
    """How far a run has come; changed by the trainer after every step.

    ``seconds`` are of training, over all sittings. ``curve`` has an entry [step, tokens, seconds, loss in nats for a
    unit of target weight, learning rate] for every few steps.
    """

    step: int = 0
    tokens: int = 0
    problems: int = 0
    too_long: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)


def save_checkpoint(run: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> Path:
    """Write the state of ``run`` after ``progress.step`` steps, and drop all but the latest two."""
    parent = run / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    target, partial = parent / f"{_PREFIX}{progress.step:08d}", parent / f"{_PARTIAL}{progress.step:08d}"
    if target.exists():
        return target
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / _TENSORS)
    record = {"format": 1, "digest": _digest(partial / _TENSORS), **asdict(progress)}
    (partial / _STATE).write_text(json.dumps(record), "utf-8")
    for file in (partial / _TENSORS, partial / _STATE, partial):
        _sync(file)
    partial.rename(target)
    _sync(parent)
    for old in list_checkpoints(run)[:-_KEPT]:
        shutil.rmtree(old)
    return target


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of ``run``, oldest first. What an interrupted write left behind is not among them."""
    return sorted((run / "checkpoints").glob(f"{_PREFIX}*"))


def load_checkpoint(run: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """The latest state of ``run``, or None where there is none yet.

    Raises CheckpointError where it is damaged, saying what can be done; nothing is deleted.
    """
    found = list_checkpoints(run)
    if not found:
        return None
    try:
        return _read(found[-1])
    except (CheckpointError, SafetensorError, OSError, TypeError) as error:
        earlier = f"the run then continues from {found[-2].name}" if len(found) > 1 else "the run then starts anew"
        raise CheckpointError(
            f"{found[-1]} is damaged: {error} Remove that directory to go on without it; {earlier}."
        ) from error


def write_atomically(file: Path, value: Any) -> None:
    """Write ``value`` as JSON into ``file``, which holds the old or the new value at every moment."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    _sync(partial)
    partial.rename(file)


def _read(directory: Path) -> tuple[Progress, dict[str, Tensor]]:
    record = read_json(directory / _STATE)
    if record.pop("format", None) != 1:
        raise CheckpointError(f"{_STATE} is of another version.")
    if record.pop("digest", None) != _digest(directory / _TENSORS):
        raise CheckpointError(f"{_TENSORS} is not what was written.")
    return Progress(**record), load_file(directory / _TENSORS)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
