"""From a training run to a sequence-classification checkpoint in the Hugging Face format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from outthink.core.errors import CheckpointError
from outthink.models.fields import read_json

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_ARCHITECTURES = {"LlamaForCausalLM": "LlamaForSequenceClassification"}


def reward_config(policy: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """The config.json of a reward model whose trunk is that of ``policy``, as transformers reads it.

    Raises CheckpointError where the policy is of a kind that cannot be given a head.
    """
    [architecture] = policy.get("architectures") or [None]
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise CheckpointError(f"{where}: a reward model cannot be made of {architecture}; of these it can: {known}.")
    padding, ends = policy.get("pad_token_id"), policy.get("eos_token_id")
    return {
        **policy,
        "architectures": [_ARCHITECTURES[architecture]],
        "num_labels": 1,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        # Padded batches are read at the last token that is not this one.
        "pad_token_id": (ends[0] if isinstance(ends, list) else ends) if padding is None else padding,
        "outthink_reward": kind,
    }


def export_reward(weights: Mapping[str, Tensor], policy: Path, kind: str, target: Path, card: str) -> Path:
    """Write a model directory: bf16 safetensors, configuration, the policy's tokenizer, card.

    What ``target`` held before is replaced as a whole.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    stored = {name: tensor.to(torch.bfloat16).contiguous().cpu() for name, tensor in weights.items()}
    save_file(stored, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # the library makes it private
    config = reward_config(read_json(policy / "config.json"), kind, str(policy))
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in _TOKENIZER_FILES:
        if (policy / name).is_file():
            shutil.copyfile(policy / name, partial / name)
    (partial / "README.md").write_text(card, "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
