"""Rewards of whole documents at once, for held-out losses and for judging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from outthink.core.errors import UserError
from outthink.learn.loss import Batch, fastest_attention
from outthink.learn.rewards.documents import RewardDocument, pack_rewards, starts
from outthink.models.checkpoint import LoadedModel, load_model
from outthink.models.transformer import Attend, Transformer

WIDTHS, MICRO_TOKENS = (128, 256, 512, 1024), 4096


def packed_reward_loss(model: Transformer, batch: Batch, attention: Callable[[Tensor], Attend]) -> Tensor:
    """The sum over labels of the binary cross-entropy in nats between label and logit, a float32 scalar."""
    hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch.segments))
    logits = model.logits(hidden).float().flatten()
    losses = binary_cross_entropy_with_logits(logits, batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum()


@torch.inference_mode()
def score_documents(
    model: Transformer,
    documents: Sequence[RewardDocument],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[list[float]]:
    """The logits at the marks of each document, in their order."""
    device = next(model.parameters()).device
    found: dict[int, list[float]] = {}
    widths = (*WIDTHS, max((len(document.ids) for document in documents), default=1) + 7)
    widths = tuple(width for width in sorted(widths))
    for packed, rows in pack_rewards(documents, widths, max(MICRO_TOKENS, widths[-1])):
        batch = Batch.of(packed, device)
        attention = fastest_attention(packed.tokens.shape[1], device.type == "cpu")
        hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch.segments))
        logits = model.logits(hidden).float().view(packed.tokens.shape).cpu()
        for row, members in enumerate(rows):
            for start, document in zip(starts(members), members, strict=True):
                found[id(document)] = [float(logits[row, start + position]) for position, _ in document.marks]
        progress(len(found), len(documents))
    return [found[id(document)] for document in documents]


def mean_loss(scores: Sequence[Sequence[float]], documents: Sequence[RewardDocument]) -> float:
    """The mean binary cross-entropy in nats of logits ``scores`` against the labels of ``documents``."""
    logits = torch.tensor([score for row in scores for score in row])
    labels = torch.tensor([label for document in documents for _, label in document.marks])
    return float(binary_cross_entropy_with_logits(logits, labels))


def load_reward(directory: Path, device: str = "cpu") -> LoadedModel:
    """The reward model in ``directory``, or of the training run in it, in float32.

    Raises UserError where it is a language model, and what `load_model` raises.
    """
    exported = directory / "model"
    loaded = load_model(exported if (exported / "config.json").is_file() else directory, "float32", device)
    if loaded.config.reward is None:
        raise UserError(f"{directory} holds a language model, not a reward model; `outthink reward train` makes one.")
    return loaded
