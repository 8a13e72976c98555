"""A checkpoint of random weights in the shape of a small open model: speed does not depend on what weights say."""

from __future__ import annotations

import json
from pathlib import Path

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
SPECIAL = ("<s>", "</s>", "<unk>")


def write_random_llama(directory: Path, shape: dict[str, int] | None = None, seed: int = 0) -> Path:
    """A Llama with a tied head in bfloat16, of `SHAPE` with any of its values changed, in the Hugging Face format.

    Weights keep activations at unit scale, and embeddings are small beside them, so that what is drawn depends on the
    whole context. Nothing is written where the directory has it already; its tokenizer spells bytes and made-up words.
    """
    import torch
    from safetensors.torch import save_file

    if (directory / "model.safetensors").is_file():
        return directory
    sizes = {**SHAPE, **(shape or {})}
    directory.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(directory, sizes["vocab_size"])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}) + "\n")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in _matrices(sizes).items():
        scale = 0.02 if "embed" in name else columns**-0.5
        tensors[name] = (torch.randn(rows, columns, generator=generator) * scale).to(torch.bfloat16)
    for name in _norms(sizes["num_hidden_layers"]):
        tensors[name] = torch.ones(sizes["hidden_size"], dtype=torch.bfloat16)
    save_file(tensors, directory / "writing", metadata={"format": "pt"})
    (directory / "writing").rename(directory / "model.safetensors")
    return directory


def _matrices(sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    queries, keys = (sizes["head_dim"] * sizes[name] for name in ("num_attention_heads", "num_key_value_heads"))
    shapes = {"model.embed_tokens.weight": (sizes["vocab_size"], hidden)}
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}self_attn.q_proj.weight": (queries, hidden),
            f"{prefix}self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, queries),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
        }
    return shapes


def _norms(layers: int) -> list[str]:
    kinds = ("input_layernorm", "post_attention_layernorm")
    return ["model.norm.weight", *(f"model.layers.{i}.{kind}.weight" for i in range(layers) for kind in kinds)]


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Byte-level, with two-byte words for the ids above the bytes; each word is the merge of its two bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *letters][:vocab_size]
    merges = [(a, b) for a in letters for b in letters][: vocab_size - len(names)]
    vocabulary = {name: i for i, name in enumerate([*names, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[2],
        "model_max_length": 2048,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
