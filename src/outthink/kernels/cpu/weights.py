"""From the tensors of a checkpoint to the packed weights of the compiled kernels: which row and column goes where.

Heads are padded to a multiple of 16, and the two halves of queries and keys are interleaved, so that the pair that is
rotated together is adjacent: scores do not depend on the order of a head's elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, Union

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import CapabilityError, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from outthink.kernels.coded import CodedWeight

Map = NDArray[np.int32]
# Arrays are float32 or float16, or the bits of bfloat16 as uint16: NumPy has no such type.
Weight = Union[NDArray[Any], "Tensor", "CodedWeight"]

LANES = 16
INPUT_MULTIPLE = 32
TILE_OUTPUTS = 64


def coded_format(config: Any, bits: int, group: int | None) -> tuple[str, int] | None:
    """The weight format and group by which the kernels take symmetric codes as they are; None where there is none.

    ``group`` is how many inputs share a scale, None where all of an output do.
    """
    if bits == 8 and group is None:
        return "int8", INPUT_MULTIPLE
    # Heads that are padded shift the groups of what attention puts out.
    if bits != 4 or (group is not None and (group % INPUT_MULTIPLE or config.head_dim % LANES)):
        return None
    return "int4", 128 if group is None or group % 128 == 0 else 32


def load_weights(
    core: Any,
    model: Any,
    max_positions: int,
    group: int | None,
    tensors: Mapping[str, Weight] | None = None,
) -> None:
    """Hand every weight of ``model``, a `Transformer`, to ``core``, packed. float32, bfloat16 and codes go as they are.

    They are taken from ``tensors``, one at a time and by name; by default the model's own. ``group`` is the number of
    inputs that share a scale in ``core``'s layers, None where all of an output do. Raises CapabilityError for codes
    that do not fit, CheckpointError for weights that no code can stand for, because they are not finite or too large.
    """
    config, found = model.config, model.state_dict() if tensors is None else tensors
    loader = _Loader(core, config, found, group)
    for layer in range(config.num_layers):
        loader.load_layer(layer)
    core.set_vector(-1, "final_norm", _floats(found["model.norm.weight"]))
    embedding = _matrix(found["model.embed_tokens.weight"])
    core.set_embedding(embedding)
    if config.reward is not None:
        name = "score.weight"
    else:
        name = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    head = {name: embedding if config.tie_embeddings and config.reward is None else found[name]}
    loader.load_linear(-1, "head", head, ranges([config.num_outputs], TILE_OUTPUTS), loader.hidden_columns)
    cos, sin = rotation_tables(*config.rotations(max_positions))
    core.set_rotation(cos, sin)
    core.seal()


class _Loader:
    def __init__(self, core: Any, config: Any, tensors: Mapping[str, Weight], group: int | None) -> None:
        self.core, self.config, self.tensors, self.group = core, config, tensors, group
        self.coded: set[bool] = set()  # whether the layers' weights are, so far
        self.hidden_columns = ranges([config.hidden_size], INPUT_MULTIPLE)
        self.hidden_rows = ranges([config.hidden_size], TILE_OUTPUTS)
        self.plain_head = ranges([config.head_dim], LANES)
        self.paired_head = interleave(config.head_dim)
        queries, keys = config.num_heads, config.num_kv_heads
        turned = repeat_head(self.paired_head, queries + keys, config.head_dim, 0)
        values = repeat_head(self.plain_head, keys, config.head_dim, (queries + keys) * config.head_dim)
        self.qkv_rows = pad(np.concatenate([turned, values]), TILE_OUTPUTS)
        self.output_columns = pad(repeat_head(self.plain_head, queries, config.head_dim, 0), INPUT_MULTIPLE)
        self.mlp_columns = ranges([config.intermediate_size], INPUT_MULTIPLE)
        self.gate_up_rows = alternate(self.mlp_columns, config.intermediate_size)

    def load_layer(self, layer: int) -> None:
        prefix = f"model.layers.{layer}."

        def get(name: str) -> Any:
            return self.tensors.get(prefix + name)

        def load(target: str, names: Sequence[str], rows: Map, columns: Map) -> None:
            biases = [get(f"{name}.bias") for name in names]
            weights = {f"{prefix}{name}.weight": self.tensors[f"{prefix}{name}.weight"] for name in names}
            self.load_linear(layer, target, weights, rows, columns, [bias for bias in biases if bias is not None])

        attention = [f"self_attn.{name}_proj" for name in "qkv"]
        load("qkv", attention, self.qkv_rows, self.hidden_columns)
        load("output", ["self_attn.o_proj"], self.hidden_rows, self.output_columns)
        load("gate_up", ["mlp.gate_proj", "mlp.up_proj"], self.gate_up_rows, self.hidden_columns)
        load("down", ["mlp.down_proj"], self.hidden_rows, self.mlp_columns)
        self.core.set_vector(layer, "input_norm", _floats(self.tensors[prefix + "input_layernorm.weight"]))
        self.core.set_vector(layer, "post_norm", _floats(self.tensors[prefix + "post_attention_layernorm.weight"]))
        for name in ("q_norm", "k_norm"):
            gain = get(f"self_attn.{name}.weight")
            if gain is not None:
                self.core.set_vector(layer, name, pick(_floats(gain), self.paired_head))

    def load_linear(
        self,
        layer: int,
        target: str,
        named: Mapping[str, Weight],
        rows: Map,
        columns: Map,
        biases: Sequence[Weight] = (),
    ) -> None:
        weights = list(named.values())
        bias = pick(np.concatenate([_floats(bias) for bias in biases]), rows) if biases else None
        coded = [weight for weight in weights if _is_coded(weight)]
        if target == "head":
            # Its own format is int8: coarser codes are rounded to it like any weight.
            group = None
            coded = [weight for weight in coded if weight.bits == 8 and weight.scales.shape[1] == 1]
        else:
            group = self.group
            self.coded.add(len(coded) == len(weights))
            if self.coded != {bool(coded)}:
                raise CapabilityError("Some layers are quantized and others not: the CPU kernels take all or none.")
        if coded:
            scales = [packed_scales(weight, columns, group) for weight in coded]
            codes = [weight.codes.contiguous().numpy() for weight in coded]
            refused = self.core.set_linear(layer, target, codes, rows, columns, bias, scales)
        else:
            refused = self.core.set_linear(layer, target, [_matrix(weight) for weight in weights], rows, columns, bias)
        if refused >= 0:
            raise CheckpointError(
                f"The tensor '{list(named)[refused]}' has weights that are not finite, or too large to be quantized: "
                "get the checkpoint anew, or load it without quantization."
            )


def packed_scales(weight: CodedWeight, columns: Map, group: int | None) -> NDArray[np.float32]:
    """The scales of ``weight`` for each ``group`` of the packed inputs ``columns``, or for all at once: [out, groups].

    Raises CapabilityError where a packed group has inputs of several scales, or a scale is finer than float16.
    """
    if weight.zeros is not None:
        raise CapabilityError("The CPU kernels take symmetric codes only.")
    scales = weight.scales.float().numpy()
    size = len(columns) if group is None else group
    stored = np.where(columns >= 0, columns // weight.group, -1)
    parts = np.pad(stored, (0, -len(stored) % size), constant_values=-1).reshape(-1, size)
    chosen = parts.max(axis=1)
    if ((parts != chosen[:, None]) & (parts >= 0)).any():
        raise CapabilityError(f"Groups of {weight.group} inputs do not lie as the CPU kernels need them.")
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16).astype(np.float32)
    if weight.bits == 4 and not np.array_equal(halves, scales):
        raise CapabilityError("The CPU kernels take int4 scales that float16 holds exactly.")
    return np.ascontiguousarray(scales[:, np.maximum(chosen, 0)])


def ranges(sizes: Sequence[int], multiple: int) -> Map:
    """0, 1, ... sum(sizes) - 1, padded with -1 to a multiple."""
    return pad(np.arange(sum(sizes), dtype=np.int32), multiple)


def pad(index: Map, multiple: int) -> Map:
    """``index`` with -1 appended up to a multiple."""
    return np.pad(index, (0, -len(index) % multiple), constant_values=-1).astype(np.int32)


def interleave(head_dim: int) -> Map:
    """0, h, 1, h + 1, ...: the elements of a head with rotated pairs adjacent, h being half its size; padded."""
    return pad(np.arange(head_dim, dtype=np.int32).reshape(2, -1).T.reshape(-1), LANES)


def repeat_head(index: Map, count: int, head_dim: int, start: int) -> Map:
    """The map of one head, for ``count`` heads that begin at ``start``."""
    offsets = start + head_dim * np.arange(count, dtype=np.int32)[:, None]
    return np.where(index >= 0, index + offsets, -1).astype(np.int32).reshape(-1)


def alternate(index: Map, up_start: int) -> Map:
    """16 gates, their 16 ups, and so on."""
    gates = index.reshape(-1, 1, LANES)
    ups = np.where(gates >= 0, gates + up_start, -1)
    return np.concatenate([gates, ups], axis=1).reshape(-1).astype(np.int32)


def pick(values: NDArray[np.float32], index: Map) -> NDArray[np.float32]:
    """``values[index]``, 0 where the index is -1."""
    return np.where(index >= 0, values[index], 0).astype(np.float32)


def rotation_tables(
    cos: NDArray[np.float32], sin: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From tables [max_positions, pairs] to those of interleaved pairs, sines signed: each [max_positions * size], with
    ``size`` the padded head_dim.
    """
    max_positions, half = cos.shape
    size = 2 * half + -2 * half % LANES
    tables = np.zeros((2, max_positions, size), np.float32)
    tables[0, :, : 2 * half] = cos.repeat(2, axis=1)
    tables[1, :, : 2 * half] = sin.repeat(2, axis=1)
    tables[1, :, ::2] *= -1
    return tables[0].reshape(-1), tables[1].reshape(-1)


def _is_coded(weight: Weight) -> TypeGuard[CodedWeight]:
    # By what it has: its class is torch's business, and torch takes a second to import.
    return hasattr(weight, "codes")


def _floats(weight: Weight) -> NDArray[np.float32]:
    array = _matrix(weight)
    return array if array.dtype == np.float32 else (array.astype(np.uint32) << 16).view(np.float32)


def _matrix(weight: Weight) -> NDArray[Any]:
    """float32, or the bits of bfloat16; other types as float32."""
    plain: Any = weight.dequantize() if _is_coded(weight) else weight
    if isinstance(plain, np.ndarray):
        array = plain if plain.dtype == np.uint16 else plain.astype(np.float32, copy=False)
        return np.require(array, requirements=["C", "A"])
    import torch

    tensor = plain.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.float().numpy()
