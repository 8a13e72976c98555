"""Rotary position embeddings in torch (RoFormer, Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from outthink.models import rope_frequencies
from outthink.models.config import RopeConfig
from outthink.models.rope_frequencies import attention_scaling


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions. Its frequencies stay float32 whatever dtype the model is moved to."""

    inv_freq: Tensor

    def __init__(self, rope: RopeConfig, head_dim: int) -> None:
        super().__init__()
        self.rope, self.head_dim = rope, head_dim
        self.scaling = attention_scaling(rope)
        self.register_buffer("inv_freq", inverse_frequencies(rope, head_dim), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Tables cos, sin [T, 1, head_dim] in ``dtype`` for ``positions`` [T]."""
        angles = positions[:, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return (angles.cos() * self.scaling).to(dtype), (angles.sin() * self.scaling).to(dtype)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> RotaryEmbedding:
        # `model.to(bfloat16)` must not round the frequencies, nor `to_empty` forget them.
        super()._apply(fn, recurse)
        self.inv_freq = inverse_frequencies(self.rope, self.head_dim).to(self.inv_freq.device)
        return self


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [T, heads, head_dim]: pair i is (x[i], x[i + head_dim/2])."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Radians a position turns each pair by, [head_dim / 2] float32 on the CPU."""
    with torch.device("cpu"):  # whatever the default is while a model is made
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return rope_frequencies.inverse_frequencies(rope, exponents, torch)
