"""From the tensors of a checkpoint to the packed weights of the compiled kernels: which row and column goes where.

Heads are padded to a multiple of 16, and the two halves of queries and keys are interleaved, so that the pair that is
rotated together is adjacent: scores do not depend on the order of a head's elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Map = NDArray[np.int32]

LANES = 16
INPUT_MULTIPLE = 32
TILE_OUTPUTS = 64


def load_weights(core: Any, model: Any, max_positions: int, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Hand every weight of ``model``, a `Transformer`, to ``core``, packed. float32 and bfloat16 go as they are.

    They are taken from ``tensors``, one at a time and by name; by default the model's own.
    """
    config, found = model.config, model.state_dict() if tensors is None else tensors
    loader = _Loader(core, config, found)
    for layer in range(config.num_layers):
        loader.load_layer(layer)
    core.set_vector(-1, "final_norm", _floats(found["model.norm.weight"]))
    embedding = found["model.embed_tokens.weight"]
    core.set_embedding(_matrix(embedding))
    if config.reward is not None:
        head = found["score.weight"]
    else:
        head = embedding if config.tie_embeddings else found["lm_head.weight"]
    loader.load_linear(-1, "head", [head], ranges([config.num_outputs], TILE_OUTPUTS), loader.hidden_columns)
    cos, sin = rotation_tables(model.model.rotary, max_positions)
    core.set_rotation(cos, sin)
    core.seal()


class _Loader:
    def __init__(self, core: Any, config: Any, tensors: Mapping[str, Tensor]) -> None:
        self.core, self.config, self.tensors = core, config, tensors
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

        def get(name: str) -> Tensor | None:
            return self.tensors.get(prefix + name)

        def load(target: str, names: Sequence[str], rows: Map, columns: Map) -> None:
            biases = [get(f"{name}.bias") for name in names]
            weights = [self.tensors[f"{prefix}{name}.weight"] for name in names]
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
        self, layer: int, target: str, weights: Sequence[Tensor], rows: Map, columns: Map, biases: Sequence[Tensor] = ()
    ) -> None:
        bias = pick(np.concatenate([_floats(bias) for bias in biases]), rows) if biases else None
        self.core.set_linear(layer, target, [_matrix(weight) for weight in weights], rows, columns, bias)


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


def rotation_tables(rotary: Any, max_positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and signed sines for interleaved pairs, each [max_positions * padded head_dim] float32."""
    cos, sin = rotary(torch.arange(max_positions), torch.float32)
    half = cos.shape[-1] // 2
    size = 2 * half + -2 * half % LANES
    tables = np.zeros((2, max_positions, size), np.float32)
    tables[0, :, : 2 * half] = cos[:, 0, :half].numpy().repeat(2, axis=1)
    tables[1, :, : 2 * half] = sin[:, 0, :half].numpy().repeat(2, axis=1)
    tables[1, :, ::2] *= -1
    return tables[0].reshape(-1), tables[1].reshape(-1)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().numpy()


def _matrix(tensor: Tensor) -> NDArray[Any]:
    """float32, or the bits of bfloat16; other types as float32."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.float().numpy()
