"""Loading a model from the Hugging Face format: checked whole from the headers first, then mapped, never unpickled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from outthink.core.errors import UserError
from outthink.kernels.coded import CodedWeight
from outthink.models.config import ModelConfig
from outthink.models.opened import OpenedModel, check_tensors, open_model
from outthink.models.quantized import StoredCoded
from outthink.models.safetensors_files import FLOATS, StoredTensor
from outthink.models.tokenizer import Tokenizer
from outthink.models.transformer import Transformer


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: evaluation mode, no gradients. ``config.dtype`` is the dtype of its weights."""

    config: ModelConfig
    model: Transformer
    tokenizer: Tokenizer
    source: Path


def load_model(source: str | Path, dtype: str = "auto", device: str = "cpu", expand: bool = True) -> LoadedModel:
    """Load the model in a directory, or of a Hugging Face hub id.

    ``dtype`` is a torch dtype's name, or "auto" for the stored one. On the CPU in the stored dtype the weights are
    memory-mapped, so the files must not change while the model is in use; else they are converted tensor by tensor.
    Quantized weights are dequantized, or left without data (on the meta device) where ``expand`` is off, for a backend
    that takes them as they are stored (`StoredWeights`).
    Raises CheckpointError, before any weight is read, for anything in the directory that is missing or malformed, and
    UserError for an unknown dtype or device.
    """
    target = _device(device)
    opened = open_model(source, dtype)
    config, stored = opened.config, opened.stored
    with torch.device("meta"):
        model = Transformer(config)
    coded = {name for name, tensor in stored.items() if isinstance(tensor, StoredCoded)} if not expand else set()
    weights = _read({n: t for n, t in stored.items() if n not in coded}, getattr(torch, config.dtype), target)
    model.load_state_dict(weights, assign=True, strict=not coded)
    model.requires_grad_(False).eval()
    return LoadedModel(config, model if coded else model.to(target), opened.tokenizer, opened.source)


class StoredWeights(Mapping[str, Tensor | CodedWeight]):
    """The tensors of a loaded model by name, as they are stored, each mapped anew when it is asked for.

    Quantized ones are dequantized to the model's dtype where ``expand`` is on; else reading raises CapabilityError for
    those whose codes are no `CodedWeight`. What is read of a tensor stays resident
    only as long as the tensor does, so that a backend which packs weights in its own way never holds two copies of the
    model.
    """

    def __init__(self, loaded: LoadedModel | OpenedModel, expand: bool = True) -> None:
        self._stored = check_tensors(loaded.source, loaded.config)
        self._dtype = getattr(torch, loaded.config.dtype) if expand else None

    def __getitem__(self, name: str) -> Tensor | CodedWeight:
        stored = self._stored[name]
        if isinstance(stored, StoredCoded):
            return stored.read_codes() if self._dtype is None else stored.expand(self._dtype)
        with safe_open(stored.file, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _read(
    stored: Mapping[str, StoredTensor | StoredCoded], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The tensors in ``dtype`` on ``device``: views of the mapped files where they lie there in that dtype already."""
    weights: dict[str, Tensor] = {}
    by_file: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        if isinstance(tensor, StoredCoded):
            weights[name] = tensor.expand(dtype).to(device)
            continue
        moved = device.type != "cpu" or FLOATS[tensor.dtype] != str(dtype).removeprefix("torch.")
        if moved:
            # A mapping of its own, gone before the next tensor is read: what was converted does not stay resident.
            with safe_open(tensor.file, framework="pt") as file:
                weights[name] = file.get_tensor(name).to(device=device, dtype=dtype)
        else:
            by_file.setdefault(tensor.file, []).append(name)
    for path, names in by_file.items():
        with safe_open(path, framework="pt") as file:
            weights.update({name: file.get_tensor(name) for name in names})
    return weights


def _device(name: str) -> torch.device:
    match = re.fullmatch(r"cpu|meta|cuda(?::([0-9]+))?", name)
    if match is None:
        raise UserError(f"Device {name!r} is not known; use 'cpu', 'cuda' or 'cuda:1'.")
    device = torch.device(name)
    if match[1] is not None and torch.cuda.is_available() and int(match[1]) >= torch.cuda.device_count():
        raise UserError(
            f"Device {name!r} was asked for; the CUDA devices here are 0 to {torch.cuda.device_count() - 1}."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("Device 'cuda' was asked for, but torch sees no CUDA device; use 'cpu'.")
    return device
