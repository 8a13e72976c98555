"""Counter-based random numbers: a draw is a pure function of (seed, branch, position).

The mixer is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), applied to the
key and the counter in turn; `uniforms` is vectorised and touches no state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(key: int, value: int) -> int:
    """A 64-bit key from a 64-bit key and an integer; distinct values give unrelated keys."""
    z = (key + _GAMMA * ((value & _MASK) + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniforms(keys: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in the open interval (0, 1) for each pair of key and counter, with 52 random bits."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(_GAMMA) * (counters + np.uint64(1))
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
