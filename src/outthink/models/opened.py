"""A model's directory, checked whole from its files' headers before any weight is read. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from outthink.core.errors import CheckpointError, UserError
from outthink.models.config import DTYPES, ModelConfig
from outthink.models.fields import Fields, read_json
from outthink.models.hub import resolve_source
from outthink.models.safetensors_files import FLOATS, StoredTensor, find_tensors
from outthink.models.shapes import Shapes, tensor_shapes
from outthink.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from outthink.models.quantized import StoredCoded
    from outthink.models.transformer import Transformer

QUANTIZATION = "quantization_config"
# Tensors that nothing is computed from: buffers that old versions of transformers saved, and the head of a tied model.
_HARMLESS = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight")


@dataclass(frozen=True)
class OpenedModel:
    """A model whose weights are still in their files, which must not change while it is in use.

    ``config.dtype`` is the dtype that they shall be computed in; ``stored`` says where each tensor is. A `LoadedModel`
    in all but its weights: ``model`` loads them into torch when it is first asked for.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    source: Path
    stored: Mapping[str, StoredTensor | StoredCoded]

    @cached_property
    def model(self) -> Transformer:
        """The weights in torch, on the CPU."""
        from outthink.models.checkpoint import load_model

        return load_model(self.source, self.config.dtype).model

    @property
    def quantized(self) -> bool:
        """Whether any weight is stored in codes."""
        return not all(isinstance(tensor, StoredTensor) for tensor in self.stored.values())

    @property
    def all_coded(self) -> bool:
        """Whether every matrix of the layers is stored in codes."""
        layers = [tensor for name, tensor in self.stored.items() if ".layers." in name and len(tensor.shape) == 2]
        return not any(isinstance(tensor, StoredTensor) for tensor in layers)


class MappedWeights(Mapping[str, NDArray[Any]]):
    """The tensors of a model that is not quantized, by name, each mapped anew when it is asked for.

    What is read of a tensor stays resident only as long as its array does, so that a backend which packs weights in its
    own way never holds two copies of the model. See `StoredTensor.map` for the arrays.
    """

    def __init__(self, opened: OpenedModel) -> None:
        self._stored = {name: t for name, t in opened.stored.items() if isinstance(t, StoredTensor)}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._stored[name].map()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def open_model(source: str | Path, dtype: str = "auto") -> OpenedModel:
    """Open the model in a directory, or of a Hugging Face hub id; ``dtype`` as for `load_model`.

    Raises CheckpointError for anything in the directory that is missing or malformed, UserError for an unknown dtype.
    """
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype {dtype!r} is not known; known: auto, {', '.join(DTYPES)}.")
    directory = resolve_source(source)
    config = read_config(directory)
    stored = check_tensors(directory, config)
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
    config = replace(config, dtype=_stored_dtype(config, stored) if dtype == "auto" else dtype)
    return OpenedModel(config, tokenizer, directory, stored)


def read_config(directory: Path) -> ModelConfig:
    """The configuration in ``directory``; generation_config.json's ``eos_token_id``, where given, goes before it."""
    file, generation_file = directory / "config.json", directory / "generation_config.json"
    if not file.is_file():
        raise CheckpointError(f"{directory} has no config.json: not a model in the Hugging Face format.")
    raw = read_json(file)
    if raw.get(QUANTIZATION):
        from outthink.models.quantized import split_scheme

        raw, _ = split_scheme(raw, str(file))
    config = ModelConfig.from_dict(raw, str(file))
    if generation_file.is_file():
        generation = Fields(read_json(generation_file), str(generation_file))
        eos_ids = generation.token_ids("eos_token_id")
        config = replace(config, eos_token_ids=eos_ids or config.eos_token_ids)
    return config


def check_tensors(directory: Path, config: ModelConfig) -> dict[str, StoredTensor | StoredCoded]:
    """The stored tensors that the model needs, by name; CheckpointError where they are not exactly those."""
    expected, found = tensor_shapes(config), find_tensors(directory)
    coded = _find_coded(directory, found, expected)
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


def _find_coded(directory: Path, found: Mapping[str, StoredTensor], expected: Shapes) -> Mapping[str, StoredCoded]:
    if not read_json(directory / "config.json").get(QUANTIZATION):
        return {}
    from outthink.models.quantized import find_coded, stored_layout  # they need torch, which takes a second to import

    layout = stored_layout(directory)
    return {} if layout is None else find_coded(found, layout, expected)


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


def _stored_dtype(config: ModelConfig, stored: Mapping[str, StoredTensor | StoredCoded]) -> str:
    plain = [tensor for tensor in stored.values() if isinstance(tensor, StoredTensor)]
    # Of a quantized model, matrices count: norms may be kept finer.
    kinds = {FLOATS[tensor.dtype] for tensor in plain if len(plain) == len(stored) or len(tensor.shape) > 1}
    return kinds.pop() if len(kinds) == 1 else config.dtype
