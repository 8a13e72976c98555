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
OnDone = Callable[[int, int], None]
"""Called with (documents done, documents in all)."""


def packed_reward_loss(model: Transformer, batch: Batch, attention: Callable[[Tensor], Attend]) -> Tensor:
    """The sum over labels of the binary cross-entropy in nats between label and logit, a float32 scalar."""
    hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch.segments))
    logits = model.logits(hidden).float().flatten()
    losses = binary_cross_entropy_with_logits(logits, batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum()


def score_documents(
    model: Transformer, documents: Sequence[RewardDocument], progress: OnDone = lambda *_: None
) -> list[list[float]]:
    """The logits of a reward model at the marks of each document, in their order."""

    def read(rewards: Tensor, start: int, document: RewardDocument) -> list[float]:
        return [float(rewards[start + position]) for position, _ in document.marks]

    return _read(model, documents, lambda hidden, _: model.logits(hidden)[..., 0].float(), read, progress)


def mean_log_probs(
    model: Transformer, documents: Sequence[RewardDocument], progress: OnDone = lambda *_: None
) -> list[list[float]]:
    """The mean log-probability (nats) that a language model gives the tokens of a solution up to each mark."""

    def log_probs(hidden: Tensor, tokens: Tensor) -> Tensor:
        law = torch.log_softmax(model.logits(hidden).float(), dim=-1)
        return law[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]  # at each position that of the next token

    def read(own: Tensor, start: int, document: RewardDocument) -> list[float]:
        first = start + document.question_length - 1
        return [float(own[first : start + position].mean()) for position, _ in document.marks]

    return _read(model, documents, log_probs, read, progress)


@torch.inference_mode()
def _read(
    model: Transformer,
    documents: Sequence[RewardDocument],
    compute: Callable[[Tensor, Tensor], Tensor],
    read: Callable[[Tensor, int, RewardDocument], list[float]],
    progress: OnDone,
) -> list[list[float]]:
    """What ``read`` finds for each document in its row of ``compute(hidden [R, W, H], tokens [R, W])``."""
    device = next(model.parameters()).device
    found: dict[int, list[float]] = {}
    longest = max((len(document.ids) for document in documents), default=1)
    widths = sorted({*WIDTHS, max(longest, WIDTHS[-1])})
    for packed, rows in pack_rewards(documents, widths, max(MICRO_TOKENS, widths[-1])):
        batch = Batch.of(packed, device)
        attention = fastest_attention(packed.tokens.shape[1], device.type == "cpu")
        hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch.segments))
        values = compute(hidden.view(*packed.tokens.shape, -1), batch.tokens).cpu()
        for row, members in enumerate(rows):
            for start, document in zip(starts(members), members, strict=True):
                found[id(document)] = read(values[row], start, document)
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
