"""Log-odds and log-probabilities of a line being right."""

from __future__ import annotations

import math
from collections.abc import Sequence

EVEN = -math.log(2.0)
"""The log-probability of what nothing is known of."""


def log_sigmoid(log_odds: float) -> float:
    """The log-probability (nats) at these log-odds; exact to the last bits at both ends."""
    if log_odds >= 0:
        return -math.log1p(math.exp(-log_odds))
    return log_odds - math.log1p(math.exp(log_odds))


def log_mean(log_weights: Sequence[float], shares: Sequence[float] | None = None) -> float:
    """The log of the mean of exp(log-weight), in nats; with ``shares``, which sum to 1, of the weighted mean."""
    top = max(log_weights)
    if top == -math.inf:
        return -math.inf
    shares = [1 / len(log_weights)] * len(log_weights) if shares is None else shares
    return top + math.log(math.fsum(s * math.exp(w - top) for s, w in zip(shares, log_weights, strict=True)))
