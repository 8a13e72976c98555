"""A model directory as a GGUF file, by which llama.cpp runs the very same weights.

Names, metadata and the order of rows follow llama.cpp's ``convert_hf_to_gguf.py``: in the llama architecture the rows
of a query or key head alternate between its two halves, because there a rotation turns neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from outthink.core.errors import CheckpointError, UnknownNameError
from outthink.quant.ggml import BLOCK, LARGEST_FLOAT16, TYPES, WrittenType
from outthink.quant.gguf_file import Entry, write_file
from outthink.quant.gguf_tokenizer import TOKENIZER_JSON, tokenizer_metadata
from outthink.quant.llama3_rope import ROPE_FACTORS, factors_of

KINDS = ("f32", "f16", "bf16", "q8_0", "q4_0")
# Our families in llama.cpp's architectures; Mistral's decoder is Llama's where no window slides.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QUANTIZATION_VERSION = 2


def write_gguf(model_dir: str | Path, path: str | Path, kind: str) -> Path:
    """Write the model in ``model_dir``, weights and tokenizer, as the GGUF file ``path``, and return that.

    ``kind`` is one of KINDS and names the type of the matrices; vectors are F32, and with ``q4_0`` the embedding and
    the head are Q8_0. The tokenizer goes along whole, as ``tokenizer.huggingface.json``; llama.cpp itself knows only
    a few ways of cutting text into words, so where ours is not among them give it token ids instead of text.
    Raises CheckpointError where the model has what the format or llama.cpp lacks.
    """
    if kind not in KINDS:
        raise UnknownNameError("GGUF kind", kind, KINDS)
    directory, target = Path(model_dir), Path(path)
    config = _read_json(directory / "config.json")
    metadata = _model_metadata(config, directory, TYPES[kind.upper()])
    metadata |= tokenizer_metadata(directory, config, _read_json(directory / TOKENIZER_JSON))
    partial = target.with_name(f".{target.name}.partial")
    write_file(partial, metadata, _entries(directory, config, kind))
    partial.replace(target)
    return target


def gguf_name(name: str) -> str | None:
    """GGUF's name of one of our tensors, None where it has none."""
    module, _, part = name.rpartition(".")
    if module.startswith("model.layers."):
        index, _, inner = module.removeprefix("model.layers.").partition(".")
        return f"blk.{index}.{LAYER[inner]}.{part}" if inner in LAYER else None
    return f"{TOP[module]}.{part}" if module in TOP else None


def to_neighbours(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of query or key heads, reordered so that pairs that turn together are neighbours."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_halves(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """The inverse of `to_neighbours`: the first of every pair in a head's first half."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _entries(directory: Path, config: Mapping[str, Any], kind: str) -> Iterator[Entry]:
    heads = {"q_proj": config["num_attention_heads"]}
    heads["k_proj"] = config.get("num_key_value_heads") or heads["q_proj"]
    turned = ARCHITECTURES[config["model_type"]] == "llama"
    yield from _rope_factors(config)
    for name, tensor in _tensors(directory):
        target = gguf_name(name)
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if target is None:
            if name.endswith("rotary_emb.inv_freq"):
                continue
            raise CheckpointError(f"{directory}: the tensor '{name}' has no place in a GGUF file.")
        values = tensor.float().numpy()
        projection = name.split(".")[-2]
        if turned and projection in heads:
            values = to_neighbours(values, heads[projection])
        yield Entry(target, _kind_of(target, values, kind, directory), values)


def _rope_factors(config: Mapping[str, Any]) -> Iterator[Entry]:
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if (rope.get("rope_type") or rope.get("type")) == "llama3":
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
        yield Entry(ROPE_FACTORS, TYPES["F32"], factors_of(rope, theta, head_dim))


def _kind_of(name: str, values: NDArray[np.float32], kind: str, directory: Path) -> WrittenType:
    if values.ndim == 1:
        return TYPES["F32"]
    if kind == "q4_0" and name in ("token_embd.weight", "output.weight"):
        kind = "q8_0"
    chosen = TYPES[kind.upper()]
    if values.shape[-1] % chosen.block:
        raise CheckpointError(
            f"{directory}: the rows of '{name}' have {values.shape[-1]} elements, no whole blocks of {BLOCK}: "
            "write it as bf16 or f16."
        )
    limit = LARGEST_FLOAT16 * {"f16": 1, "q8_0": 127, "q4_0": 8}.get(kind, np.inf)
    if not np.abs(values).max() <= limit:
        raise CheckpointError(f"{directory}: '{name}' has values beyond {limit:g}, which {kind} does not reach.")
    return chosen


def _model_metadata(config: Mapping[str, Any], directory: Path, kind: WrittenType) -> dict[str, Any]:
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise CheckpointError(f"{directory}: GGUF export knows {', '.join(ARCHITECTURES)}, not {family!r}.")
    if config.get("quantization_config"):
        raise CheckpointError(f"{directory} is quantized: export the model that it was made from.")
    if config.get("sliding_window") and (family == "mistral" or config.get("use_sliding_window")):
        raise CheckpointError(f"{directory}: llama.cpp has no sliding windows in this architecture.")
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        head_dim = config.get("head_dim") or hidden // heads
        values = {
            "context_length": config["max_position_embeddings"],
            "embedding_length": hidden,
            "block_count": config["num_hidden_layers"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": heads,
            "attention.head_count_kv": config.get("num_key_value_heads") or heads,
            "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "rope.dimension_count": head_dim,
            "vocab_size": config["vocab_size"],
            **_rope_metadata(config, directory),
        }
    except KeyError as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error} is missing.") from error
    architecture = ARCHITECTURES[family]
    return {
        "general.architecture": architecture,
        "general.name": directory.resolve().name,
        "general.file_type": kind.file_type,
        "general.quantization_version": _QUANTIZATION_VERSION,
        **{f"{architecture}.{key}": value for key, value in values.items()},
    }


def _rope_metadata(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    base = {"rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)}
    match rope.get("rope_type") or rope.get("type") or "default":
        case "default":
            return base
        case "linear":
            return base | {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "llama3":
            return base  # the factors go along as a tensor
        case other:
            raise CheckpointError(f"{directory}: GGUF export does not know the rope type {other!r}.")


def _tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint by name, one at a time."""
    index = directory / "model.safetensors.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        try:
            with safe_open(directory / name, framework="pt") as file:
                for tensor in file.keys():  # noqa: SIM118 - no mapping
                    yield tensor, file.get_tensor(tensor)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{directory / name}: cannot be read: {error}.") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object.")
    return value
