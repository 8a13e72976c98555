"""A tiny model whose tokens are whole lines of reasoning, so that random weights think in readable steps."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import Regex, decoders, pre_tokenizers

STEPS = ["17 + 5 = 22\n", "17 + 5 = 21\n", "5 + 17 = 22\n", "answer: 22\n", "answer: 21\n", "answer: 23\n"]
PROBLEM, RIGHT = "compute 17 + 5", "22"
HIDDEN = 32


def make_model(directory: Path, *, ends: bool = True, context: int = 256, chat: bool = True) -> Path:
    """Write a model that draws a step, or with ``ends`` its end, at every position, about evenly but not quite.

    Every embedding leans along the first axis; the output layer's rows of steps lean the same way, those of characters
    the other: so characters can be read but are never written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = ["<unk>", "<end>", *characters, *STEPS]
    size, written = len(vocabulary), len(STEPS)
    noise = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=noise)

    embeddings, head = random(size, HIDDEN), random(size, HIDDEN, scale=0.15)
    embeddings[:, 0] = 3.0
    head[:, 0] = -8.0
    head[size - written :, 0] = 8.0
    if ends:
        head[1, 0] = 8.0
    weights = {"model.embed_tokens.weight": embeddings, "lm_head.weight": head, "model.norm.weight": torch.ones(HIDDEN)}
    for name, shape in {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (48, HIDDEN),
        "mlp.up_proj": (48, HIDDEN),
        "mlp.down_proj": (HIDDEN, 48),
    }.items():
        weights[f"model.layers.0.{name}.weight"] = random(*shape, scale=0.1)
    for name in ("input_layernorm", "post_attention_layernorm"):
        weights[f"model.layers.0.{name}.weight"] = torch.ones(HIDDEN)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    _write(directory / "config.json", _config(size, context))
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({text: i for i, text in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse()])
    tokenizer.save(str(directory / "tokenizer.json"))
    _write(directory / "tokenizer_config.json", {"eos_token": "<end>"})
    if chat:
        template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        (directory / "chat_template.jinja").write_text(template)
    return directory


def _config(size: int, context: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 1,
    }


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))
