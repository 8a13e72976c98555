"""How fast each pair of a head's elements turns with its position, stretchings included. Imports no torch.

Written once for torch and NumPy: ``xp`` is either. torch computes in float32 in the order of operations of
transformers, so that it agrees to the last bit; NumPy in float64, rounded once at the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outthink.models.config import RopeConfig


def rotation_tables(
    rope: RopeConfig, head_dim: int, max_positions: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of positions 0, 1, ... for each pair: two float32 arrays [max_positions, head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies = inverse_frequencies(rope, exponents, np).astype(np.float32)
    angles = np.arange(max_positions, dtype=np.float32)[:, None] * frequencies
    scaling = np.float32(attention_scaling(rope))
    return np.cos(angles) * scaling, np.sin(angles) * scaling


def inverse_frequencies(rope: RopeConfig, exponents: Any, xp: Any) -> Any:
    """Radians a position turns each pair by; ``exponents`` [head_dim / 2] are 2i / head_dim, in ``xp``'s floats."""
    inv_freq = 1.0 / rope.theta**exponents
    match rope.rope_type:
        case "default":
            return inv_freq
        case "linear":
            return inv_freq / rope.factor
        case "llama3":
            return _llama3(rope, inv_freq, xp)
        case "yarn":
            return _yarn(rope, rope.theta**exponents, xp)
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


def _llama3(rope: RopeConfig, inv_freq: Any, xp: Any) -> Any:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated (Llama 3.1)."""
    assert rope.original_max_positions is not None
    wavelength = 2 * math.pi / inv_freq
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_max_positions / wavelength - low) / (high - low)
    between = (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq
    stretched = xp.where(wavelength > rope.original_max_positions / low, inv_freq / rope.factor, between)
    return xp.where(wavelength < rope.original_max_positions / high, inv_freq, stretched)


def _yarn(rope: RopeConfig, pos_freqs: Any, xp: Any) -> Any:
    """Interpolate pairs turning under ``beta_slow`` times in the original length, keep those over ``beta_fast``."""
    assert rope.original_max_positions is not None
    head_dim = 2 * len(pos_freqs)

    def pair_turning(rotations: float, length: int) -> float:
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = pair_turning(rope.beta_fast, rope.original_max_positions)
    high = pair_turning(rope.beta_slow, rope.original_max_positions)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = xp.clip((xp.arange(head_dim // 2, dtype=pos_freqs.dtype) - low) / (high - low), 0, 1)
    keep = 1 - ramp
    return 1.0 / (rope.factor * pos_freqs) * (1 - keep) + 1.0 / pos_freqs * keep
