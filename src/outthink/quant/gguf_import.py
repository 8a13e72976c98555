"""A GGUF file as a model directory in the Hugging Face format; 4- and 8-bit layers keep their codes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outthink.core.errors import CheckpointError
from outthink.kernels.coded import CodedWeight
from outthink.quant.ggml import BLOCK, split_q4_0, split_q8_0
from outthink.quant.gguf import ARCHITECTURES, LAYER, TOP, to_halves
from outthink.quant.gguf_file import GgufFile, GgufTensor, read_file
from outthink.quant.gguf_tokenizer import read_tokenizer
from outthink.quant.layouts import IntLayout, PackedLayout
from outthink.quant.llama3_rope import ROPE_FACTORS, parameters_of
from outthink.quant.model_directory import check_target, save_weights, writing_model
from outthink.quant.scheme import write_scheme

_MODULES = {short: name for name, short in TOP.items()}
_INNER = {short: name for name, short in LAYER.items()}
_FAMILIES = {architecture: architecture for architecture in ARCHITECTURES.values()}
# Keys that would change what is computed, with the values that change nothing.
_OFF = {
    "expert_count": (0,),
    "attention.sliding_window": (0,),
    "attention.scale": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}
_MOST = 1 << 31


def convert_gguf(file: str | Path, target: Path, tokenizer: str | Path | None = None) -> Path:
    """Write the model in a GGUF file as the directory ``target``, replacing one that was written so, and return that.

    F32, F16 and BF16 tensors stay as they are. Where all matrices of the layers are Q4_0, or all Q8_0, they are written
    with their codes and scales; other quantized tensors become the float32 values that ggml makes of them, with a
    warning where they are layers. The tokenizer is the file's, or that of the directory ``tokenizer``.
    Raises CheckpointError for what is malformed, unknown, or would be computed differently, and UserError where
    ``target`` holds anything else (`check_target`).
    """
    path = Path(file)
    check_target(target)
    found = read_file(path)
    keys = _Keys(found.metadata, str(path))
    config = _config(found, keys)
    layout = _layout(found)
    tensors = dict(_tensors(found, config, keys, layout))
    if layout is not None:
        config["quantization_config"] = write_scheme(layout)
    with writing_model(target) as directory:
        source = Path(tokenizer) if tokenizer is not None else None
        _write_tokenizer(directory, found.metadata, config, source, str(path))
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        save_weights(directory, tensors)
    return target


class _Keys:
    """Metadata read key by key; those of the architecture without its name."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.metadata, self.where = metadata, where
        self.architecture = metadata.get("general.architecture")
        if self.architecture not in _FAMILIES:
            raise self.error(f"the architecture {self.architecture!r} is not supported; known: {', '.join(_FAMILIES)}")

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}.")

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, absent: int | None = None) -> int:
        value = self.get(key)
        value = absent if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise self.error(f"'{self.architecture}.{key}' is {value!r}; expected a positive whole number")
        return value

    def number(self, key: str, absent: float | None = None) -> float:
        value = self.get(key)
        value = absent if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(f"'{self.architecture}.{key}' is {value!r}; expected a positive number")
        # Of all numbers that a stored float32 may stand for, the shortest: 0.00001 rather than 0.0000099999997.
        return float(str(np.float32(value)))


def _config(found: GgufFile, keys: _Keys) -> dict[str, Any]:
    for key, off in _OFF.items():
        if keys.get(key) is not None and keys.get(key) not in off:
            raise keys.error(f"'{keys.architecture}.{key}' is {keys.get(key)!r}, which is not supported")
    heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    head_dim = keys.integer("attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.integer(key, head_dim) != head_dim:
            raise keys.error(f"'{keys.architecture}.{key}' is {keys.get(key)}, not the {head_dim} of a head")
    if "token_embd.weight" not in found.tensors:
        raise keys.error("the tensor 'token_embd.weight' is missing")
    rope = {"rope_type": "default", "rope_theta": keys.number("rope.freq_base", 10000.0)} | _rope(found, keys, head_dim)
    config = {
        "model_type": _FAMILIES[str(keys.architecture)],
        "vocab_size": found.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in found.tensors,
        "dtype": _dtype(found),
    }
    if keys.architecture != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in found.tensors
    if keys.architecture == "llama":
        config["mlp_bias"] = "blk.0.ffn_up.bias" in found.tensors
    ids = {name: found.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "padding")}
    ends = sorted({i for name in ("eos", "eot") if isinstance(i := ids[name], int)})
    config |= {"bos_token_id": ids["bos"], "eos_token_id": ends or None, "pad_token_id": ids["padding"]}
    return config


def _rope(found: GgufFile, keys: _Keys, head_dim: int) -> dict[str, Any]:
    """How the rotation is stretched to longer contexts, as transformers says it."""
    if ROPE_FACTORS in found.tensors:
        factors = found.tensors[ROPE_FACTORS].values().reshape(-1)
        parameters = parameters_of(factors, keys.number("rope.freq_base", 10000.0), head_dim)
        if parameters is None:
            raise keys.error(f"'{ROPE_FACTORS}' stretches the rotation as no Llama 3 does, which is not supported")
        return parameters
    kind = keys.get("rope.scaling.type")
    if kind in (None, "none"):
        return {}
    if kind != "linear":
        raise keys.error(f"rope scaling {kind!r} is not supported; known: linear")
    return {"rope_type": "linear", "factor": keys.number("rope.scaling.factor")}


def _layout(found: GgufFile) -> PackedLayout | IntLayout | None:
    """The one layout in which all matrices of the layers keep their codes; None where there is none."""
    kinds = {t.kind.name for name, t in found.tensors.items() if name.startswith("blk.") and len(t.shape) == 2}
    match sorted(kinds):
        case ["Q4_0"]:
            return PackedLayout(4, BLOCK)
        case ["Q8_0"]:
            return IntLayout(8, BLOCK)
        case _ if quantized := sorted(kinds - {"F32", "F16", "BF16"}):
            warnings.warn(
                f"Layers of the types {', '.join(sorted(kinds))} do not keep their codes: {', '.join(quantized)} "
                "become float32. Compute them with --weights int4 or int8, or requantize to Q4_0 or Q8_0 alone.",
                stacklevel=3,
            )
    return None


def _dtype(found: GgufFile) -> str:
    kinds = {tensor.kind.name for tensor in found.tensors.values() if len(tensor.shape) == 2}
    only = kinds.pop() if len(kinds) == 1 else None
    return {"F16": "float16", "BF16": "bfloat16"}.get(str(only), "float32")


def _tensors(
    found: GgufFile, config: Mapping[str, Any], keys: _Keys, layout: PackedLayout | IntLayout | None
) -> Iterator[tuple[str, Tensor]]:
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    for name, tensor in found.tensors.items():
        if name == ROPE_FACTORS:
            continue
        module, part = _place(name, keys)
        inner = module.split(".", 3)[-1]
        turned = heads.get(inner) if keys.architecture == "llama" else None
        if turned is not None and tensor.shape[0] % (2 * turned):
            raise keys.error(f"the tensor {name!r} of shape {list(tensor.shape)} is not made of {turned} heads")

        def rows(values: NDArray[Any], turned: int | None = turned) -> Tensor:
            return torch.from_numpy(np.array(values if turned is None else to_halves(values, turned)))

        if layout is not None and name.startswith("blk.") and len(tensor.shape) == 2:
            codes, scales = _codes(tensor)
            weight = CodedWeight(rows(codes), rows(scales), layout.bits, BLOCK)
            yield from ((f"{module}.{suffix}", kept) for suffix, kept in layout.encode(weight).items())
        else:
            dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(tensor.kind.name, torch.float32)
            yield f"{module}.{part}", rows(tensor.values()).to(dtype)


def _place(name: str, keys: _Keys) -> tuple[str, str]:
    """Our module of a GGUF tensor, and whether it is its weight or its bias."""
    short, _, part = name.rpartition(".")
    if part in ("weight", "bias"):
        if short in _MODULES:
            return _MODULES[short], part
        prefix, _, rest = short.partition(".")
        index, _, inner = rest.partition(".")
        if prefix == "blk" and index.isdecimal() and inner in _INNER:
            return f"model.layers.{int(index)}.{_INNER[inner]}", part
    raise keys.error(f"the tensor {name!r} has no place in a {keys.architecture} model")


def _codes(tensor: GgufTensor) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes [out, in] and scales [out, in / 32] of a quantized matrix."""
    codes, scales = (split_q4_0 if tensor.kind.name == "Q4_0" else split_q8_0)(tensor.data)
    return codes.reshape(tensor.shape), scales.reshape(tensor.shape[0], -1)


def _write_tokenizer(
    directory: Path, metadata: Mapping[str, Any], config: Mapping[str, Any], source: Path | None, where: str
) -> None:
    if source is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
        if not (directory / "tokenizer.json").is_file():
            raise CheckpointError(f"{source} has no tokenizer.json.")
        return
    tokenizer, named = read_tokenizer(metadata, config, where)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(named, indent=2) + "\n", "utf-8")
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, "utf-8")
