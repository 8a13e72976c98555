"""From a training run to a model in the Hugging Face format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor

from outthink.core.errors import CheckpointError
from outthink.learn.card import model_card
from outthink.learn.checkpoints import load_checkpoint
from outthink.learn.sizes import get_size, hf_config
from outthink.learn.tokenizer import END_ID, PAD_ID, save_tokenizer
from outthink.models.fields import read_json


def export_run(run: Path, target: Path, figures: str = "", name: str | None = None) -> Path:
    """Write the averaged weights of the latest checkpoint of ``run`` as a model into ``target``.

    ``figures`` is Markdown for the model card. What ``target`` held before is replaced as a whole.
    """
    if not (run / "run.json").is_file():
        raise CheckpointError(f"{run} holds no training run (no run.json).")
    settings = read_json(run / "run.json")
    found = load_checkpoint(run)
    if found is None:
        raise CheckpointError(f"{run} has no checkpoint yet; train for a minute first.")
    progress, tensors = found
    weights = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
    tokenizer = tokenizers.Tokenizer.from_file(str(run / "tokenizer.json"))
    card = model_card(name or target.name, settings, progress, sum(t.numel() for t in weights.values()), figures)
    return export_model(weights, settings["size"], settings["context"], tokenizer, target, card)


def export_model(
    weights: Mapping[str, Tensor], size: str, context: int, tokenizer: tokenizers.Tokenizer, target: Path, card: str
) -> Path:
    """Write a model directory as transformers does: bf16 safetensors, configuration, tokenizer, template, card."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    stored = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(stored, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # the library makes it private
    _write_json(partial / "config.json", hf_config(get_size(size), tokenizer.get_vocab_size(), context))
    generation = {"eos_token_id": END_ID, "pad_token_id": PAD_ID}
    _write_json(partial / "generation_config.json", generation)
    save_tokenizer(tokenizer, partial, context)
    (partial / "README.md").write_text(card, "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
