"""The normalising constant of a weighted population, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outthink.core.errors import UserError
from outthink.posterior.resampling import log_mean_exp

ROUNDING = 1e-9  # nats: by less than that, equal runs differ too


@dataclass(frozen=True)
class Evidence:
    """``log_z`` in nats; ``se`` its standard error, None where fewer than two runs, or two different ones, are there to
    tell; ``runs``: how many independent ones there were.
    """

    log_z: float
    se: float | None
    runs: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """``log_z`` plus and minus the quantile of Student's t with ``runs`` - 1 degrees of freedom times ``se``."""
        from scipy.stats import t

        if self.se is None:
            return -math.inf, math.inf
        reach = float(t.ppf((1 + level) / 2, self.runs - 1)) * self.se
        return self.log_z - reach, self.log_z + reach


def pool(log_z: Sequence[float], sizes: Sequence[int]) -> Evidence:
    """One figure from independent runs whose ``exp(log_z)`` are unbiased, each weighing as its number of particles.

    The mean of unbiased estimates is unbiased. Its standard error is taken from the spread *between* runs, which holds
    whatever happens within one: resampling makes the particles of a run depend on each other, so that formulas over one
    run's weights are too small, and exactly 0 where systematic resampling leaves equal weights. On the log scale it is
    the relative error, by the delta method. Runs that are all equal, as where none met what is rare, say nothing of it:
    they do not make it 0. Raises UserError for no runs.
    """
    if len(log_z) != len(sizes) or not log_z:
        raise UserError(f"{len(log_z)} estimates and {len(sizes)} sizes: there must be one size for each, and one run.")
    shares = np.asarray(sizes, dtype=np.float64) / sum(sizes)
    scaled = np.asarray(log_z, dtype=np.float64) + np.log(shares * len(sizes))
    total, runs = log_mean_exp(scaled), len(log_z)
    if runs < 2 or total == -math.inf:
        return Evidence(total, None, runs)
    relative = shares * (np.exp(np.asarray(log_z) - total) - 1.0)
    se = math.sqrt(float(np.square(relative).sum()) * runs / (runs - 1))
    return Evidence(total, se if se > ROUNDING else None, runs)


@dataclass(frozen=True)
class Bounds:
    """Two-sided bounds on log Z that hold in expectation, in nats, each with its standard error.

    The lower one is a mean over ``runs`` runs, the upper one over as many as there were ``exact`` draws for.

    ``gap`` bounds the sum of the two Kullback-Leibler divergences between what the sampler draws and its target (Zhao
    et al. 2024, arXiv:2404.17546, section 5).
    """

    lower: float
    lower_se: float | None
    upper: float
    upper_se: float | None
    runs: int
    exact: int = 0

    @property
    def gap(self) -> float:
        return self.upper - self.lower


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; no error for fewer than two values or where one is infinite."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
