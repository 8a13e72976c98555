"""Tiny random-weight models of every family, written by transformers: the oracle's side of the parity tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = """{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|turn|>system\\nThink.<|end|>\\n' }}
    {%- endif %}
    {{- '<|turn|>' + message.role + '\\n' + message.content | trim + '<|end|>\\n' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\\n' }}
{%- endif %}
"""
SPECIAL_TOKENS = ["<|begin|>", "<|end|>", "<|turn|>"]
# Shorter than the sequences of the parity tests, as the stretched ropes' original length is.
WINDOW, ORIGINAL_LENGTH = 16, 64

_BASE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 0.01,  # large enough to matter
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 8},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": ORIGINAL_LENGTH,
        },
    },
    "llama-yarn": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": ORIGINAL_LENGTH,
        },
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1000000.0},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen2-yarn": {
        "model_type": "qwen2",
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": ORIGINAL_LENGTH,
            "beta_fast": 8.0,
            "beta_slow": 2.0,
        },
    },
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 16},
    "qwen3-window": {
        "model_type": "qwen3",
        "head_dim": 16,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mistral": {"model_type": "mistral", "num_key_value_heads": 1, "sliding_window": WINDOW},
    "mistral-nowindow": {"model_type": "mistral", "sliding_window": None, "head_dim": 16},
}
FAMILIES: tuple[str, ...] = tuple(_VARIANTS)


def make_hf_model(
    family: str, directory: Path, dtype: str = "float32", seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """Write a model of a member of FAMILIES into ``directory``, and return it in float32, evaluating eagerly.

    ``overrides`` replace keys of its config; ``dtype`` is what the weights are stored in. Every weight is random and
    large enough that a wrong rotation, window, bias or norm moves the logits by far more than a tolerance of 1e-4.
    """
    _write(AutoModelForCausalLM, family, directory, dtype, seed, overrides)
    return read_hf_model(directory)


def make_hf_reward(
    family: str, directory: Path, dtype: str = "float32", seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """Write a reward model as `make_hf_model` writes a language model: one that classifies into a single label."""
    _write(AutoModelForSequenceClassification, family, directory, dtype, seed, {"num_labels": 1, **overrides})
    return AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _write(auto: Any, family: str, directory: Path, dtype: str, seed: int, overrides: dict[str, Any]) -> None:
    tokenizer = make_tokenizer()
    settings = _BASE | _VARIANTS[family] | overrides
    settings |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(**settings)
    model = auto.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else 1.5 * noise / weight.shape[1] ** 0.5)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def read_hf_model(directory: Path, dtype: str = "float32") -> PreTrainedModel:
    """The model in ``directory`` as transformers reads it. (Converting one in memory would round its rotations.)"""
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 tokens with three special ones and a chat template."""
    backend = Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the answer is 12 + 30 = 42, then the other: naïve 思考 🙂"] * 4, trainer)
    begin, end, turn = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=begin, eos_token=end, additional_special_tokens=[turn]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
