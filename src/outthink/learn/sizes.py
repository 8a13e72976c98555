"""The sizes of the bundled models: Llama architecture, tied embeddings, deep rather than wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.core.errors import UnknownNameError, UserError
from outthink.learn.tokenizer import END_ID, PAD_ID
from outthink.models.config import ModelConfig
from outthink.models.fields import read_json


@dataclass(frozen=True)
class Size:
    """The shape of one size. ``learning_rate``, ``batch_tokens`` (per optimizer step) and ``minutes`` are the recipe's
    defaults.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    learning_rate: float
    batch_tokens: int
    minutes: float


SIZES: Mapping[str, Size] = {
    size.name: size
    for size in (
        Size("XS", 64, 160, 2, 2, 1, 32, 4e-3, 4096, 2),  # 0.1M: for trying the recipe out
        Size("S", 128, 352, 5, 4, 2, 32, 5e-3, 8192, 45),  # 1.0M
        Size("M", 256, 704, 7, 8, 4, 32, 4e-3, 8192, 120),  # 5.2M
        Size("L", 512, 1408, 9, 16, 8, 32, 2e-3, 65536, 240),  # 26M
    )
}
ROPE_THETA = 10000.0
NORM_EPS = 1e-5


def get_size(name: str) -> Size:
    """The size called ``name``; an UnknownNameError lists the known ones."""
    if name not in SIZES:
        raise UnknownNameError("model size", name, SIZES)
    return SIZES[name]


def size_of(directory: Path) -> Size:
    """The size of the model in ``directory``. Raises UserError where it has none of our shapes."""
    config = read_json(directory / "config.json")
    for size in SIZES.values():
        expected = hf_config(size, 0, 0)
        shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        if all(config.get(key) == expected[key] for key in shape):
            return size
    raise UserError(f"The model in {directory} is of none of the sizes {', '.join(SIZES)}.")


def hf_config(size: Size, vocab_size: int, context: int) -> dict[str, Any]:
    """The config.json of a model of this size, as transformers reads and writes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "dtype": "bfloat16",
    }


def model_config(size: Size, vocab_size: int, context: int) -> ModelConfig:
    """The same configuration as our own Transformer takes it."""
    return ModelConfig.from_dict(hf_config(size, vocab_size, context), f"size {size.name}")
