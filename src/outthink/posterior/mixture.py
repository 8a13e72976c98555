"""Two groups in a sample of positive numbers: a mixture of two Weibull laws, fitted by expectation-maximisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weibull:
    """The law with density (k / s) (x / s)^(k - 1) exp(-(x / s)^k) for x > 0: ``shape`` k, ``scale`` s."""

    shape: float
    scale: float

    def log_density(self, x: Floats) -> Floats:
        """The log of the density at each of ``x``."""
        ratio = np.log(x / self.scale)
        return np.log(self.shape / self.scale) + (self.shape - 1) * ratio - np.exp(np.minimum(self.shape * ratio, 700))

    @property
    def mean(self) -> float:
        from scipy.special import gamma

        return float(self.scale * gamma(1 + 1 / self.shape))


@dataclass(frozen=True)
class Mixture:
    """``low`` and ``high`` by their means; ``share`` of the high one; ``log_likelihood`` after each step (nats)."""

    low: Weibull
    high: Weibull
    share: float
    log_likelihood: tuple[float, ...]

    def belongs_high(self, values: Sequence[float]) -> Floats:
        """The probability that each value is of the high group."""
        x = np.asarray(values, dtype=np.float64)
        low, high = np.log1p(-self.share) + self.low.log_density(x), np.log(self.share) + self.high.log_density(x)
        return np.exp(high - np.logaddexp(low, high))


def fit(values: Sequence[float], steps: int = 60) -> Mixture | None:
    """The mixture fitted to positive ``values``; None where fewer than four differ, or one group comes out empty.

    Begins with the halves below and above the median.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(np.unique(x)) < 4:
        return None
    of_high = np.where(x > np.median(x), 0.9, 0.1)
    likelihood = list[float]()
    groups, share = (Weibull(1.0, 1.0), Weibull(1.0, 1.0)), 0.5
    for _ in range(steps):
        share = float(of_high.mean())
        if not 1e-3 < share < 1 - 1e-3:
            return None
        groups = _weibull(x, 1 - of_high), _weibull(x, of_high)
        low, high = np.log1p(-share) + groups[0].log_density(x), np.log(share) + groups[1].log_density(x)
        total = np.logaddexp(low, high)
        of_high = np.exp(high - total)
        likelihood.append(float(total.sum()))
        if len(likelihood) > 1 and likelihood[-1] - likelihood[-2] < 1e-9 * abs(likelihood[-1]):
            break
    if groups[0].mean > groups[1].mean:
        return Mixture(groups[1], groups[0], 1 - share, tuple(likelihood))
    return Mixture(groups[0], groups[1], share, tuple(likelihood))


def _weibull(x: Floats, weights: Floats) -> Weibull:
    """The weighted maximum-likelihood fit; the shape solves an equation whose left side rises with it."""
    weights, logs = weights / weights.sum(), np.log(x / x.max())
    mean_log = float(weights @ logs)

    def excess(shape: float) -> float:
        powers = weights * np.exp(shape * logs)
        return float(powers @ logs / powers.sum()) - 1 / shape - mean_log

    low, high = 1e-2, 1e3  # a group of one value would have no largest likelihood: the shape stays below 1,000
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    shape = (low * high) ** 0.5
    return Weibull(shape, float(x.max() * (weights @ np.exp(shape * logs)) ** (1 / shape)))
