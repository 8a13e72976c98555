"""Llama 3's stretched rotation as GGUF stores it: a factor for each pair of a head, in ``rope_freqs.weight``.

A pair of a long wavelength turns ``factor`` times slower, one of a short wavelength as before, those between in
proportion (transformers' ``llama3``; llama.cpp's ``convert_hf_to_gguf.py``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROPE_FACTORS = "rope_freqs.weight"
# All of Llama 3.1, 3.2 and 3.3; only the factor differs.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def factors_of(parameters: dict[str, Any], theta: float, head_dim: int) -> NDArray[np.float32]:
    """The factors [head_dim / 2] of transformers' rope ``parameters``."""
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    factor, original = float(parameters["factor"]), float(parameters["original_max_position_embeddings"])
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    share = np.clip((original / wavelength - low) / (high - low), 0, 1)  # of turning as before
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def parameters_of(factors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any] | None:
    """The parameters of the Llama 3 that has these factors; None where none has."""
    if factors.shape != (head_dim // 2,) or not np.isfinite(factors).all() or factors.max() < 1:
        return None
    parameters = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
    return parameters if np.allclose(factors, factors_of(parameters, theta, head_dim), rtol=1e-4) else None
