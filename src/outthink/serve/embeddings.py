"""A text as a vector: the mean of the model's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from outthink.kernels.reference.dense import dense_attend
from outthink.models.checkpoint import LoadedModel
from outthink.models.opened import OpenedModel


@torch.inference_mode()
def mean_pooled(loaded: LoadedModel | OpenedModel, tokens: Sequence[int]) -> list[float]:
    """The mean over positions of the hidden states after the final norm, [hidden_size], scaled to length 1."""
    device = next(loaded.model.parameters()).device
    ids = torch.tensor(list(tokens), device=device)
    attend = dense_attend(1, len(tokens), loaded.config.sliding_windows)
    hidden = loaded.model(ids, torch.arange(len(tokens), device=device), attend)
    mean = hidden.float().mean(0)
    return (mean / mean.norm().clamp(min=1e-12)).tolist()
