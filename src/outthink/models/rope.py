"""Rotary position embeddings and their stretchings (RoFormer, Su et al. 2021, arXiv:2104.09864).

Frequencies are computed in float32 in the order of operations of transformers, so that they agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from outthink.models.config import RopeConfig


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
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    inv_freq = 1.0 / rope.theta**exponents
    match rope.rope_type:
        case "default":
            return inv_freq
        case "linear":
            return inv_freq / rope.factor
        case "llama3":
            return _llama3(rope, inv_freq)
        case "yarn":
            return _yarn(rope, rope.theta**exponents, head_dim)
        case other:
            raise ValueError(f"rope type {other!r}")


def attention_scaling(rope: RopeConfig) -> float:
    """What cosines and sines are multiplied by: 1, except for YaRN (Peng et al. 2023, arXiv:2309.00071, eq. 22)."""
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _llama3(rope: RopeConfig, inv_freq: Tensor) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated (Llama 3.1)."""
    assert rope.original_max_positions is not None
    wavelength = 2 * math.pi / inv_freq
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_max_positions / wavelength - low) / (high - low)
    between = (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq
    stretched = torch.where(wavelength > rope.original_max_positions / low, inv_freq / rope.factor, between)
    return torch.where(wavelength < rope.original_max_positions / high, inv_freq, stretched)


def _yarn(rope: RopeConfig, pos_freqs: Tensor, head_dim: int) -> Tensor:
    """Interpolate pairs turning under ``beta_slow`` times in the original length, keep those over ``beta_fast``."""
    assert rope.original_max_positions is not None

    def pair_turning(rotations: float, length: int) -> float:
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = pair_turning(rope.beta_fast, rope.original_max_positions)
    high = pair_turning(rope.beta_slow, rope.original_max_positions)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    keep = 1 - ramp
    return 1.0 / (rope.factor * pos_freqs) * (1 - keep) + 1.0 / pos_freqs * keep
