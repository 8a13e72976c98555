"""Loading a model from the Hugging Face format: checked whole from the headers first, then mapped, never unpickled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from outthink.core.errors import CheckpointError, UserError
from outthink.kernels.coded import CodedWeight
from outthink.models.config import DTYPES, ModelConfig
from outthink.models.fields import Fields, read_json
from outthink.models.hub import resolve_source
from outthink.models.quantized import StoredCoded, find_coded, split_scheme, stored_layout
from outthink.models.safetensors_files import FLOATS, StoredTensor, find_tensors
from outthink.models.tokenizer import Tokenizer
from outthink.models.transformer import Transformer

# Tensors that nothing is computed from: buffers that old versions of transformers saved, and the head of a tied model.
_HARMLESS = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight")


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
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype {dtype!r} is not known; known: auto, {', '.join(DTYPES)}.")
    directory = resolve_source(source)
    config = read_config(directory)
    with torch.device("meta"):
        model = Transformer(config)
    stored = check_tensors(directory, model, config)
    tokenizer = Tokenizer.from_directory(directory, config.eos_token_ids, config.bos_token_id)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{tokenizer.where} has ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is "
            f"{config.vocab_size}: they do not belong together."
        )
    if outside := [t for t in config.eos_token_ids if not 0 <= t < config.vocab_size]:
        raise CheckpointError(
            f"{directory}: eos_token_id {outside[0]} is outside the vocabulary of {config.vocab_size:,}: "
            "no text would ever end. Mend config.json or generation_config.json."
        )
    config = replace(config, dtype=_resolve_dtype(dtype, config, stored))
    coded = {name for name, tensor in stored.items() if isinstance(tensor, StoredCoded)} if not expand else set()
    weights = _read({n: t for n, t in stored.items() if n not in coded}, getattr(torch, config.dtype), target)
    model.load_state_dict(weights, assign=True, strict=not coded)
    model.config = config
    model.requires_grad_(False).eval()
    return LoadedModel(config, model if coded else model.to(target), tokenizer, directory)


class StoredWeights(Mapping[str, Tensor | CodedWeight]):
    """The tensors of a loaded model by name, as they are stored, each mapped anew when it is asked for.

    Quantized ones are dequantized to the model's dtype where ``expand`` is on. What is read of a tensor stays resident
    only as long as the tensor does, so that a backend which packs weights in its own way never holds two copies of the
    model.
    """

    def __init__(self, loaded: LoadedModel, expand: bool = True) -> None:
        self._stored = check_tensors(loaded.source, loaded.model, loaded.config)
        self._dtype = getattr(torch, loaded.config.dtype) if expand else None

    def __getitem__(self, name: str) -> Tensor | CodedWeight:
        stored = self._stored[name]
        if isinstance(stored, StoredCoded):
            return stored.read() if self._dtype is None else stored.expand(self._dtype)
        with safe_open(stored.file, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def read_config(directory: Path) -> ModelConfig:
    """The configuration in ``directory``; generation_config.json's ``eos_token_id``, where given, goes before it."""
    file, generation_file = directory / "config.json", directory / "generation_config.json"
    if not file.is_file():
        raise CheckpointError(f"{directory} has no config.json: not a model in the Hugging Face format.")
    config = ModelConfig.from_dict(split_scheme(read_json(file), str(file))[0], str(file))
    if generation_file.is_file():
        generation = Fields(read_json(generation_file), str(generation_file))
        eos_ids = generation.token_ids("eos_token_id")
        config = replace(config, eos_token_ids=eos_ids or config.eos_token_ids)
    return config


def check_tensors(directory: Path, model: Transformer, config: ModelConfig) -> dict[str, StoredTensor | StoredCoded]:
    """The stored tensors that ``model`` needs, by name; CheckpointError where they are not exactly those."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found, layout = find_tensors(directory), stored_layout(directory)
    coded = find_coded(found, layout, expected) if layout is not None else {}
    for name, shape in expected.items():
        if name in coded:
            continue
        if name not in found:
            files = sorted({str(tensor.file) for tensor in found.values()})
            where = files[0] if len(files) == 1 else str(directory)
            raise CheckpointError(f"{where}: the tensor '{name}' of shape {list(shape)} is missing.")
        _check_tensor(name, found[name], shape)
    parts = {name.removesuffix("weight") + suffix for name, weight in coded.items() for suffix in weight.parts}
    for name in sorted(found.keys() - expected.keys() - parts):
        if not _HARMLESS.fullmatch(name):
            raise CheckpointError(
                f"{found[name].file}: the tensor '{name}' does not belong to a {config.model_type} model of this "
                "config; loading the rest would compute something else."
            )
    return {name: coded.get(name) or found[name] for name in expected}


def _check_tensor(name: str, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.file}: the tensor '{name}' has shape {list(tensor.shape)}; the config implies {list(shape)}."
        )
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"{tensor.file}: the tensor '{name}' has dtype {tensor.dtype}; known: {', '.join(FLOATS)}, or quantized "
            "weights with a 'quantization_config' in config.json."
        )


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


def _resolve_dtype(dtype: str, config: ModelConfig, stored: Mapping[str, StoredTensor | StoredCoded]) -> str:
    if dtype != "auto":
        return dtype
    plain = [tensor for tensor in stored.values() if isinstance(tensor, StoredTensor)]
    # Of a quantized model, matrices count: norms may be kept finer.
    kinds = {FLOATS[tensor.dtype] for tensor in plain if len(plain) == len(stored) or len(tensor.shape) > 1}
    return kinds.pop() if len(kinds) == 1 else config.dtype


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
