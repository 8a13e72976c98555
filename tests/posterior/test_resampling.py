"""Resamplers by exact integration over their uniforms: what each ancestor's law is, and how much it varies."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.errors import UnknownNameError, UserError
from outthink.posterior.resampling import (
    RESAMPLERS,
    conditional_multinomial,
    effective_size,
    flatten,
    log_mean_exp,
    multinomial,
    normalise,
    perplexity,
    resampler,
)

SHARES = st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 1.7, 3.0, 9.0]), min_size=1, max_size=6).filter(any)
INDEPENDENT = ["stratified", "residual", "multinomial"]


def logs(shares):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(shares, dtype=float))


def cells(weights, num):
    """Middles and lengths of the cells of (0, 1) inside which no resampler changes its mind about any one draw."""
    cumulative = np.cumsum(weights)
    expected = num * weights
    remainder = expected - np.floor(expected + 1e-12)
    edges = [0.0, 1.0, *cumulative]
    if remainder.sum() > 1e-9:
        edges += list(np.cumsum(remainder) / remainder.sum())
    edges += [x for c in cumulative for j in range(num) if 0 < (x := num * c - j) < 1]
    edges = np.unique(np.clip(edges, 0, 1))
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def law(resample, shares, num):
    """P[j, i]: the exact probability that draw j takes ancestor i, one uniform at a time."""
    weights = normalise(logs(shares))
    middles, lengths = cells(weights, num)
    table = np.zeros((num, len(shares)))
    for middle, length in zip(middles, lengths, strict=True):
        ancestors = resample(logs(shares), np.full(num, middle))
        table[np.arange(num), ancestors] += length
    return table


def variance(scheme, shares, num, h):
    """The exact variance of the mean of h over the copies."""
    if scheme == "systematic":  # one uniform for all
        weights = normalise(logs(shares))
        middles, lengths = cells(weights, num)
        means = np.array([h[RESAMPLERS[scheme](logs(shares), np.full(num, m))].mean() for m in middles])
        return float(lengths @ means**2 - (lengths @ means) ** 2)
    table = law(RESAMPLERS[scheme], shares, num)
    return float((table @ h**2 - (table @ h) ** 2).sum() / num**2)


@pytest.mark.parametrize("scheme", RESAMPLERS)
@settings(max_examples=60, deadline=None)
@given(shares=SHARES, num=st.integers(1, 7))
def test_expected_copies_are_exactly_the_weights(scheme, shares, num):
    expected = law(RESAMPLERS[scheme], shares, num).sum(axis=0)
    assert expected == pytest.approx(num * normalise(logs(shares)), abs=1e-9)


def test_that_integration_rejects_broken_resamplers():
    """Copies whose rest is drawn from the weights and not from the remainders; and the middle of every slice."""
    shares, num = [0.5, 1.7, 3.0], 4
    weights = normalise(logs(shares))

    def careless(log_weights, uniforms):
        certain = np.repeat(np.arange(3), np.floor(len(uniforms) * weights).astype(int))
        return np.concatenate([certain, multinomial(log_weights, uniforms[: len(uniforms) - len(certain)])])

    def rigid(log_weights, uniforms):
        return RESAMPLERS["stratified"](log_weights, np.full(len(uniforms), 0.5))

    for mutant in (careless, rigid):
        assert np.abs(law(mutant, shares, num).sum(axis=0) - num * weights).max() > 0.01


@settings(max_examples=60, deadline=None)
@given(shares=SHARES, num=st.integers(1, 7), seed=st.integers(0, 99))
def test_the_known_order_of_variances(shares, num, seed):
    """Stratified and residual never exceed multinomial, whose variance is Var_W(h) / M."""
    h = np.random.default_rng(seed).normal(size=len(shares))
    weights = normalise(logs(shares))
    most = variance("multinomial", shares, num, h)
    assert most == pytest.approx((weights @ h**2 - (weights @ h) ** 2) / num, abs=1e-12)
    assert variance("stratified", shares, num, h) <= most + 1e-12
    assert variance("residual", shares, num, h) <= most + 1e-12


@settings(max_examples=60, deadline=None)
@given(shares=SHARES, num=st.integers(1, 7))
def test_systematic_has_the_least_variance_of_each_count(shares, num):
    """A count with mean c varies by at least frac(c) (1 - frac(c)); systematic attains it, and no scheme is below."""
    expected = num * normalise(logs(shares))
    fraction = expected - np.floor(expected + 1e-12)
    for i, least in enumerate(np.maximum(fraction * (1 - fraction), 0)):
        h = np.eye(len(shares))[i]
        assert variance("systematic", shares, num, h) * num**2 == pytest.approx(least, abs=1e-9)
        for scheme in INDEPENDENT:
            assert variance(scheme, shares, num, h) * num**2 >= least - 1e-9


def test_systematic_has_no_such_bound_for_other_functions():
    """Four equal particles taken two at a time, alternating in h: all or none, where multinomial would average."""
    h = np.array([1.0, 0.0, 1.0, 0.0])
    assert variance("systematic", [1, 1, 1, 1], 2, h) > variance("multinomial", [1, 1, 1, 1], 2, h) + 0.1


def test_draws_of_different_uniforms_are_independent_but_for_systematic():
    rng = np.random.default_rng(0)
    for scheme in INDEPENDENT:
        u = rng.uniform(size=5)
        first = RESAMPLERS[scheme](logs([1, 2, 3, 4]), u)
        u[0] = 1 - u[0]
        again = RESAMPLERS[scheme](logs([1, 2, 3, 4]), u)
        assert (first != again).sum() <= 1


def test_particle_zero_survives_conditional_resampling_and_others_are_multinomial():
    u = np.random.default_rng(1).uniform(size=(4000, 3))
    drawn = np.array([conditional_multinomial(logs([1, 3, 6]), row) for row in u])
    assert (drawn[:, 0] == 0).all()
    rates = np.bincount(drawn[:, 1:].ravel(), minlength=3) / 8000
    assert rates == pytest.approx([0.1, 0.3, 0.6], abs=0.03)  # 5 standard errors


def test_sizes_and_means():
    assert effective_size(logs([1, 1, 1, 1])) == pytest.approx(4)
    assert effective_size(logs([1, 0, 0])) == pytest.approx(1)
    assert effective_size(logs([3, 1]) + 700) == pytest.approx(16 / 10)
    assert perplexity(logs([1, 1, 0])) == pytest.approx(2)
    assert perplexity(logs([3, 1])) > effective_size(logs([3, 1]))
    assert log_mean_exp([-math.inf, 0.0]) == pytest.approx(math.log(0.5))
    assert log_mean_exp([-2000.0, -2000.0]) == pytest.approx(-2000.0)
    assert log_mean_exp([-math.inf]) == -math.inf


@settings(max_examples=50, deadline=None)
@given(shares=SHARES, floor=st.floats(1, 6))
@pytest.mark.parametrize("size", [effective_size, perplexity])
def test_flattening_reaches_the_floor_with_the_largest_power(size, shares, floor):
    values, live = logs(shares), int(np.count_nonzero(shares))
    flat = flatten(values, size, floor)
    assert np.isneginf(flat[np.asarray(shares) == 0]).all()
    if size(values) >= floor:
        assert (flat == values).all()
    elif floor <= live:
        assert size(flat) >= floor - 1e-6
        order = np.argsort(values)
        assert (np.diff(flat[order][-live:]) >= 0).all(), "flattening must not change the order"
        if floor < live - 1e-6:
            assert size(flat) == pytest.approx(floor, abs=1e-5), "a larger power would have done"


def test_mistakes_are_user_errors():
    with pytest.raises(UnknownNameError, match="Did you mean 'systematic'"):
        resampler("sistematic")
    with pytest.raises(UserError, match="one particle at least"):
        normalise([-math.inf, -math.inf])
    with pytest.raises(UserError):
        normalise([math.nan, 0.0])
    with pytest.raises(UserError, match="no values"):
        log_mean_exp([])
