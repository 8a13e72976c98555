"""Resampling: N weighted particles become M equally weighted ones, on average each as often as its weight says.

Every resampler is a pure function ``(log_weights [N], uniforms [M]) -> ancestors [M]``, integers in [0, N). The
expected number of copies of particle i is M times its normalised weight: exactly, for every N, M and set of weights.
Given the weights, the variance of the mean of any h over the copies is, for multinomial resampling, Var_W(h) / M;
stratified and residual never exceed that (Douc, Cappé and Moulines 2005, arXiv:cs/0507025, section 3); systematic has
the least possible variance of each particle's own number of copies, and no such bound for other h (section 3.4 there).
Source of all four: Hol, Schön and Gustafsson 2006, On Resampling Algorithms for Particle Filters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outthink.core.errors import UnknownNameError, UserError

Floats = NDArray[np.float64]
Ancestors = NDArray[np.int64]
Resampler = Callable[[ArrayLike, Floats], Ancestors]


def log_mean_exp(log_values: ArrayLike) -> float:
    """log of the mean of exp, in nats; -inf where all are -inf. Raises UserError for none."""
    values = np.asarray(log_values, dtype=np.float64)
    if values.size == 0:
        raise UserError("The mean of no values is not defined.")
    top = values.max()
    return float(top) if np.isneginf(top) else float(top + np.log(np.mean(np.exp(values - top))))


def normalise(log_weights: ArrayLike) -> Floats:
    """Weights that sum to 1, from unnormalised log-weights. Raises UserError where none is above -inf or one is NaN."""
    values = np.asarray(log_weights, dtype=np.float64)
    top = values.max(initial=-np.inf)
    if not np.isfinite(top):
        raise UserError(f"Log-weights whose largest is {top} cannot be normalised: one particle at least must live.")
    weights = np.exp(values - top)
    return weights / weights.sum()


def effective_size(log_weights: ArrayLike) -> float:
    """Effective sample size 1 / sum(W^2), between 1 and N (Kong, Liu and Wong 1994, JASA 89)."""
    return float(1.0 / np.square(normalise(log_weights)).sum())


def perplexity(log_weights: ArrayLike) -> float:
    """exp(entropy of the weights), between 1 and N; never below `effective_size`."""
    weights = normalise(log_weights)
    positive = weights[weights > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def multinomial(log_weights: ArrayLike, uniforms: Floats) -> Ancestors:
    """Each ancestor drawn on its own."""
    return _invert(normalise(log_weights), uniforms)


def stratified(log_weights: ArrayLike, uniforms: Floats) -> Ancestors:
    """One draw in each of M equal slices of the distribution function."""
    return _invert(normalise(log_weights), (np.arange(len(uniforms)) + uniforms) / len(uniforms))


def systematic(log_weights: ArrayLike, uniforms: Floats) -> Ancestors:
    """One draw, the first of ``uniforms``, taken in every slice."""
    return _invert(normalise(log_weights), (np.arange(len(uniforms)) + uniforms[:1]) / len(uniforms))


def residual(log_weights: ArrayLike, uniforms: Floats) -> Ancestors:
    """floor(M W) copies of each for certain, the rest multinomial from the remainders (Liu and Chen 1998, JASA 93)."""
    expected = normalise(log_weights) * len(uniforms)
    # Rounding may leave M W a hair below the integer that it is: a copy lost there would only be drawn again.
    certain = np.floor(expected + 1e-12).astype(np.int64)
    ancestors = np.repeat(np.arange(len(expected)), certain)
    num_drawn = len(uniforms) - len(ancestors)
    if num_drawn <= 0:
        return ancestors[: len(uniforms)]
    remainder = np.maximum(expected - certain, 0.0)
    return np.concatenate([ancestors, _invert(remainder / remainder.sum(), uniforms[:num_drawn])])


def _invert(weights: Floats, points: Floats) -> Ancestors:
    """The index at which the distribution function of ``weights`` passes each of ``points`` in [0, 1)."""
    cumulative = np.cumsum(weights)
    found = np.searchsorted(cumulative, points * cumulative[-1], side="right")
    return np.minimum(found, np.flatnonzero(weights)[-1])


RESAMPLERS: dict[str, Resampler] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}


def resampler(name: str) -> Resampler:
    """The resampler called ``name``; raises UnknownNameError, which lists the known ones."""
    if name not in RESAMPLERS:
        raise UnknownNameError("resampling scheme", name, RESAMPLERS)
    return RESAMPLERS[name]


def conditional_multinomial(log_weights: ArrayLike, uniforms: Floats) -> Ancestors:
    """Multinomial resampling in which particle 0 is its own first copy, as conditional SMC needs it.

    (Andrieu, Doucet and Holenstein 2010, Particle Markov chain Monte Carlo methods, section 4.3.)
    """
    ancestors = multinomial(log_weights, uniforms)
    ancestors[0] = 0
    return ancestors


def flatten(log_weights: ArrayLike, size: Callable[[ArrayLike], float], floor: float) -> Floats:
    """The log-weights times the largest power in [0, 1] at which ``size`` of them is at least ``floor``.

    ``size`` is `effective_size` or `perplexity`; both fall as the power rises. Particles at -inf stay there. Found by
    bisection to 2^-30.
    """
    values = np.asarray(log_weights, dtype=np.float64)
    live = np.isfinite(values)
    powered = partial(_power, values, live)
    if size(values) >= floor:
        return values
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if size(powered(middle)) >= floor else (low, middle)
    return powered(low)


def _power(values: Floats, live: NDArray[np.bool_], power: float) -> Floats:
    return np.where(live, power * np.where(live, values, 0.0), -np.inf)
