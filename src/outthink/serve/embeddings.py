"""A text as a vector: the mean of the model's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outthink.models.checkpoint import LoadedModel
    from outthink.models.opened import OpenedModel


def mean_pooled(loaded: LoadedModel | OpenedModel, tokens: Sequence[int]) -> list[float]:
    """The mean over positions of the hidden states after the final norm, [hidden_size], scaled to length 1."""
    import torch  # here, because nothing else of a server on the compiled kernels needs it, and it is half of its start

    from outthink.kernels.reference.dense import dense_attend

    with torch.inference_mode():
        device = next(loaded.model.parameters()).device
        ids = torch.tensor(list(tokens), device=device)
        attend = dense_attend(1, len(tokens), loaded.config.sliding_windows)
        hidden = loaded.model(ids, torch.arange(len(tokens), device=device), attend)
        mean = hidden.float().mean(0)
        return (mean / mean.norm().clamp(min=1e-12)).tolist()
