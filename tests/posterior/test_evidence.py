"""The standard error of a pooled evidence estimate, by simulation and by hand."""

import math

import numpy as np
import pytest

from outthink.core.errors import UserError
from outthink.posterior.evidence import mean_and_error, pool
from outthink.posterior.potential import Prefix, Product
from outthink.posterior.resampling import effective_size, log_mean_exp


def test_pooling_is_the_mean_over_particles():
    rng = np.random.default_rng(0)
    runs = [rng.normal(size=n) for n in (1, 4, 7)]
    pooled = pool([log_mean_exp(r) for r in runs], [1, 4, 7])
    assert pooled.log_z == pytest.approx(log_mean_exp(np.concatenate(runs)))
    assert pooled.runs == 3


def test_error_of_equal_runs_is_the_standard_error_of_their_mean():
    z = np.array([1.0, 2.0, 4.0, 3.0])
    pooled = pool(np.log(z).tolist(), [5] * 4)
    assert pooled.se == pytest.approx(z.std(ddof=1) / 2 / z.mean())
    assert pooled.interval()[0] < pooled.log_z < pooled.interval()[1]


def test_one_run_or_none_alive_has_no_error():
    assert pool([0.3], [8]).se is None
    assert pool([0.3], [8]).interval() == (-math.inf, math.inf)
    dead = pool([-math.inf, -math.inf], [4, 4])
    assert (dead.log_z, dead.se) == (-math.inf, None)
    half = pool([-math.inf, 0.0], [4, 4])
    assert half.log_z == pytest.approx(math.log(0.5))
    assert half.se == pytest.approx(1.0)
    for log_z, sizes in (([0.3] * 4, [4] * 4), ([math.log(0.1)] * 7, [1, 2, 3, 5, 8, 13, 21])):
        alike = pool(log_z, sizes)
        assert (alike.se, alike.runs) == (None, len(sizes)), "runs that all agree do not make it certain"
        assert alike.interval() == (-math.inf, math.inf)
    with pytest.raises(UserError, match="one run"):
        pool([], [])


def test_interval_covers_between_runs_and_the_formula_within_a_run_does_not():
    """Runs whose particles agree with each other, as resampled ones do: 2,000 experiments of 8 runs.

    The interval between runs must cover at its level (0.95; three standard errors of the rate are 0.015, and the
    skewness of Z costs a little more). The formula over the pooled weights, which takes them as independent, must
    fail: it is the variant that this check is there to catch.
    """
    rng = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(2000):
        common = rng.normal(scale=0.3, size=8) - 0.3**2 / 2
        weights = common[:, None] + rng.normal(scale=0.2, size=(8, 16)) - 0.2**2 / 2
        pooled = pool([log_mean_exp(row) for row in weights], [16] * 8)
        low, high = pooled.interval()
        covered += low <= 0 <= high
        within = math.sqrt(1 / effective_size(weights.ravel()) - 1 / weights.size)
        naive += abs(pooled.log_z) <= 1.96 * within
    assert 0.925 <= covered / 2000 <= 0.975
    assert naive / 2000 < 0.75


def test_mean_and_error():
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)
    assert mean_and_error([1.0]) == (1.0, None)
    assert mean_and_error([0.0, -math.inf]) == (-math.inf, None)


class Says:
    def __init__(self, value):
        self.value, self.asked = value, 0

    def log_potential(self, prefix):
        self.asked += 1
        return self.value


def test_product_adds_and_stops_at_a_veto():
    factors = [Says(-1.0), Says(-math.inf), Says(-2.0)]
    assert Product([factors[0], factors[2]]).log_potential(Prefix((), "")) == -3.0
    assert Product(factors).log_potential(Prefix((), "")) == -math.inf
    assert factors[2].asked == 1
