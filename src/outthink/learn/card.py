"""The model card that goes with every exported checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outthink import __version__
from outthink.learn.checkpoints import Progress

# What a run may set beside its size and length, and a reader must know to repeat it.
_TOLD = ("hardest", "learning_rate", "batch_tokens", "question_weight", "init_from", "tokenizer")


def model_card(name: str, settings: Mapping[str, Any], progress: Progress, parameters: int, figures: str) -> str:
    """Markdown with the data, the recipe and the figures of a model; ``settings`` is the contents of its run.json."""
    loss = f"{progress.curve[-1][3]:.4f}" if progress.curve else "not recorded"
    amount = f"{progress.problems:,} problems, {progress.tokens:,} tokens"
    rate = f"learning rate {settings['learning_rate']:g}, {settings['batch_tokens']:,} tokens a step"
    length = f"--minutes {settings['minutes']:g}" if settings["minutes"] else f"--steps {settings['steps']}"
    source = f"`{Path(settings['init_from']).name}`" if settings.get("init_from") else "random weights"
    command = f"outthink train --size {settings['size']} --suite {settings['suite']} {length} --seed {settings['seed']}"
    given = "".join(f" --set {name}={settings[name]}" for name in _TOLD if settings.get(name) not in (None, 1.0))
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [outthink, reasoning, procedural]
---

# {name}

A small language model of the Llama architecture that solves generated reasoning problems step by step. It knows
nothing else: it was trained on the problems of `{settings["suite"]}`, begun with {source}.

| | |
| --- | --- |
| parameters | {parameters:,} (size {settings["size"]}), stored in bf16 |
| context | {settings["context"]:,} tokens |
| tokenizer | byte-level BPE, digits one by one |
| data | `{settings["suite"]}`, training split, difficulty 0 to {settings["hardest"]:g}: {amount} |
| left out | {progress.too_long:,} problems longer than {settings["widths"][-1]:,} tokens |
| training | {progress.step:,} steps, {progress.seconds / 60:.0f} minutes on `{settings["device"]}` |
| optimizer | {settings["optimizer"]}, {rate} |
| last training loss | {loss} nats for a target token (question tokens weigh {settings["question_weight"]:g}) |
| weights | average over the last {settings["average_steps"]} steps or so |
| made by | outthink {__version__}: `{command}{given}` |

Problems are split by a hash of their canonical form: none of the validation or test split was trained on.
{figures and chr(10) + figures.strip() + chr(10)}
## Format

`<|user|>` question `<|assistant|>` one step a line, then `answer: ...` and `<|end|>`; the chat template writes it.

## Limits

Anything that is not a problem of its families, worded as they word it, gets a fluent and meaningless reply. Numbers,
lengths and depths beyond the training range are mostly answered wrongly.
"""
