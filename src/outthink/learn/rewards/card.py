"""The model card of a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outthink import __version__
from outthink.learn.checkpoints import Progress

_READ = {
    "process": "after the line feed that ends a step, and after the end token of a solution",
    "outcome": "after the end token of a whole solution, and nowhere else",
}
_TOLD = ("label_tokens", "epochs", "learning_rate", "batch_tokens", "heldout", "optimizer")


def reward_card(
    name: str, settings: Mapping[str, Any], data: Mapping[str, Any], progress: Progress, figures: Mapping[str, Any]
) -> str:
    """Markdown with what the reward means, the data, the recipe and the held-out loss.

    ``settings`` is the contents of the run's run.json, ``data`` describes its labels, ``figures`` its result.
    """
    kind, policy, labels = settings["kind"], Path(settings["model"]).name, data["settings"]
    minutes = f" --minutes {settings['minutes']:g}" if settings["minutes"] else ""
    given = "".join(f" --set {key}={settings[key]}" for key in _TOLD if settings.get(key) is not None)
    command = f"outthink reward train --kind {kind} --labels {Path(settings['labels']).name} --model {policy}{minutes}"
    amount = f"{data['marks']:,} labels on {data['documents']:,} lines of {data['problems']:,} problems"
    length = f"{progress.step:,} steps, {progress.tokens:,} tokens, {progress.seconds / 60:.1f} minutes"
    article = "An" if kind == "outcome" else "A"
    rollouts = "" if labels["labels"] == "outcomes" else f", {labels['rollouts']} rollouts a prefix"
    heldout = (
        f"{figures['heldout_loss']:.4f} nats a label on {figures['heldout_problems']:,} problems kept out "
        f"(a constant would have {figures['constant_loss']:.4f})"
        if figures.get("heldout_loss") is not None
        else "no problems were kept out"
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
language: en
tags: [outthink, reward-model, {kind}-reward-model]
---

# {name}

{article} {kind} reward model: the log-odds that a solution which `{policy}` is writing ends with a right answer. Its
trunk is that of `{policy}`, with a head of one output. It is read {_READ[kind]}.

| | |
| --- | --- |
| parameters | {figures["parameters"]:,}, stored in bf16 |
| labels | {labels["labels"]}: {amount} |
| left out | {data["too_long"]:,} lines longer than {settings["widths"][-1]:,} tokens |
| problems | `{labels["suite"]}`, {labels["split"]} split, difficulty 0 to {labels["hardest"]:g} |
| sampled | by `{labels["model"]}` at temperature {labels["temperature"]:g}{rollouts} |
| rollout tokens | {data["tokens"]:,} |
| training | {length} on `{settings["device"]}` |
| held out | {heldout} |
| made by | outthink {__version__}: `{command} --seed {settings["seed"]}{given}` |

## Format

A sequence-classification checkpoint with one label: `<|user|>` question `<|assistant|>` one step a line, as the policy
writes it. `score.weight` times the last hidden state is the logit.

## Limits

It knows the mistakes of `{policy}` on these families of problems and difficulties. On other text, and of solutions that
were searched for high rewards, it says little.
"""
