"""From a model directory to one with quantized layers, in the layout of compressed-tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from outthink.core.errors import CheckpointError, UnknownNameError, UserError
from outthink.kernels.coded import CodedWeight
from outthink.learn.calibrate import Progress, linears, round_layers
from outthink.models.checkpoint import LoadedModel, load_model
from outthink.models.fields import read_json
from outthink.models.quantized import stored_layout
from outthink.models.safetensors_files import find_tensors
from outthink.quant.gptq import round_calibrated, round_clipped
from outthink.quant.layouts import IntLayout, PackedLayout
from outthink.quant.model_directory import check_target, save_weights, writing_model
from outthink.quant.nearest import round_nearest
from outthink.quant.scheme import write_scheme

METHODS = ("nearest", "clip", "gptq")
_OTHER_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf", ".onnx")


@dataclass(frozen=True)
class Quantization:
    """How to round: ``bits`` 4 or 8, ``group`` inputs to a scale (None: all of an output), one of METHODS."""

    bits: int = 4
    group: int | None = 32
    method: str = "gptq"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise UserError(f"bits={self.bits}: weights are quantized to 4 or 8 bits.")
        if self.group not in (None, 32, 128):
            raise UserError(f"group={self.group}: scales are shared by 32 or 128 inputs, or by a whole channel.")
        if self.method not in METHODS:
            raise UnknownNameError("method", self.method, METHODS)

    @property
    def layout(self) -> PackedLayout | IntLayout:
        """How it is stored."""
        return IntLayout(8, self.group) if self.bits == 8 else PackedLayout(4, self.group)


@dataclass(frozen=True)
class Quantized:
    """What was written: where, and the bytes of its weights before and after."""

    directory: Path
    bytes_before: int
    bytes_after: int


def quantize(
    source: str | Path,
    target: Path,
    how: Quantization,
    documents: Sequence[Sequence[int]] = (),
    progress: Progress = lambda *_: None,
) -> Quantized:
    """Write the model of ``source`` with its layers rounded into ``target``, replacing one that was written so before.

    Embedding, norms and head stay as they are. ``documents`` are token ids of texts such as the model will see;
    rounding to nearest needs none. Raises CheckpointError where ``source`` is quantized already, UserError where
    ``target`` holds anything else (`check_target`), before anything is computed.
    """
    loaded = load_model(source, dtype="float32")
    check_target(target, loaded.source)
    if stored_layout(loaded.source) is not None:
        raise CheckpointError(f"{loaded.source} is quantized already: start from the model that it was made from.")
    if how.method != "nearest" and not any(documents):
        raise UserError(f"The method {how.method!r} needs calibration texts.")
    coded = code_layers(loaded, how, documents, progress)
    before = weight_bytes(loaded.source)
    write_model(loaded.source, target, coded, how.layout)
    return Quantized(target, before, weight_bytes(target))


def code_layers(
    loaded: LoadedModel, how: Quantization, documents: Sequence[Sequence[int]], progress: Progress = lambda *_: None
) -> dict[str, CodedWeight]:
    """The codes of every matrix of the layers, by name; changes the (float32) model to what they stand for.

    Raises CheckpointError for weights that are not finite, which no code can stand for.
    """
    named = [
        (f"model.layers.{i}.{n}.weight", m) for i, x in enumerate(loaded.model.model.layers) for n, m in linears(x)
    ]
    for name, module in named:
        if not torch.isfinite(module.weight).all():
            raise CheckpointError(f"{loaded.source}: the tensor '{name}' has weights that are not finite: get it anew.")
    if how.method == "nearest":
        return {name: round_nearest(module.weight, how.bits, how.group) for name, module in named}
    rounding = partial(round_calibrated if how.method == "gptq" else round_clipped, bits=how.bits, group=how.group)
    return round_layers(loaded.model, documents, rounding, progress)


def write_model(source: Path, target: Path, coded: Mapping[str, CodedWeight], layout: PackedLayout | IntLayout) -> None:
    """The model directory ``source`` with the weights ``coded`` in ``layout``, as ``target``; see `writing_model`."""
    with writing_model(target, source) as directory:
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.endswith(_OTHER_WEIGHTS):
                shutil.copyfile(file, directory / file.name)
        save_weights(directory, _tensors(source, coded, layout))
        config = read_json(source / "config.json") | {"quantization_config": write_scheme(layout)}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def weight_bytes(directory: Path) -> int:
    """Bytes of the safetensors of a model."""
    return sum(file.stat().st_size for file in {tensor.file for tensor in find_tensors(directory).values()})


def _tensors(source: Path, coded: Mapping[str, CodedWeight], layout: PackedLayout | IntLayout) -> dict[str, Tensor]:
    from safetensors import safe_open

    made: dict[str, Tensor] = {}
    for name, stored in find_tensors(source).items():
        if name in coded:
            weight = coded[name]
            # float16 holds the scales of 4 bits exactly, and those of 8 bits are float32.
            kept = CodedWeight(
                weight.codes,
                weight.scales.to(torch.float16 if layout.bits == 4 else torch.float32),
                weight.bits,
                weight.group,
            )
            made |= {name.removesuffix("weight") + suffix: part for suffix, part in layout.encode(kept).items()}
        else:
            with safe_open(stored.file, framework="pt") as file:
                made[name] = file.get_tensor(name)
    return made
