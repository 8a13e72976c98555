"""Intervals: exact coverage by enumeration first, then oracles, then simulation with a stated error rate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial

from outthink.core import estimate as estimate_module
from outthink.core.errors import UserError
from outthink.core.estimate import (
    Estimate,
    mean,
    median_ratio,
    paired_difference,
    paired_mean_difference,
    pass_at_k,
    proportion,
)

Interval = tuple[float, float]
Z = 1.959963984540054
RATES = (0.0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)


def ends(estimate: Estimate) -> Interval:
    return estimate.low, estimate.high


def normal_interval(values: list[float]) -> Interval:
    """The interval by the central limit that reports usually print: the mutant of every coverage check."""
    half = Z * float(np.std(values)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def paired_records(wins: int, losses: int, n: int) -> tuple[list[bool], list[bool]]:
    """Two lists with so many problems right only in the first, only in the second; the rest agree."""
    rest = n - wins - losses
    return [True] * wins + [False] * losses + [True] * rest, [False] * wins + [True] * losses + [True] * rest


# --- proportion ------------------------------------------------------------------------------------------------------


def worst_share_coverage(interval: Callable[[list[bool]], Interval], n: int) -> float:
    intervals = [interval([True] * k + [False] * (n - k)) for k in range(n + 1)]
    coverages = []
    for p in np.linspace(0, 1, 101):
        inside = np.array([low <= p <= high for low, high in intervals])
        coverages.append(binom.pmf(np.arange(n + 1), n, p) @ inside)
    return min(coverages)


@pytest.mark.parametrize("n", [1, 2, 5, 13, 40])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_proportion_covers_every_true_share(n: int, level: float) -> None:
    assert worst_share_coverage(lambda r: ends(proportion(r, level)), n) >= level - 1e-12


def test_normal_interval_fails_the_coverage_check_of_proportion() -> None:
    assert worst_share_coverage(lambda r: normal_interval([float(x) for x in r]), 13) < 0.6


def test_proportion_agrees_with_scipy() -> None:
    for k, n in [(0, 1), (1, 1), (0, 30), (7, 30), (30, 30), (175, 400)]:
        expected = binomtest(k, n).proportion_ci(0.9, method="exact")
        got = proportion([True] * k + [False] * (n - k), level=0.9)
        assert ends(got) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert got.value == k / n and got.n == n


# --- paired difference -----------------------------------------------------------------------------------------------


def worst_paired_coverage(interval: Callable[[int, int, int], Interval], n: int) -> float:
    """The smallest coverage over a grid of (win rate, loss rate), by enumeration of every (wins, losses)."""
    outcomes = [(i, j) for i in range(n + 1) for j in range(n + 1 - i)]
    intervals = np.array([interval(i, j, n) for i, j in outcomes])
    counts = np.array([(i, j, n - i - j) for i, j in outcomes])
    coverages = []
    for win, loss in product(RATES, RATES):
        if win + loss > 1 + 1e-12:
            continue
        difference = win - loss
        inside = (intervals[:, 0] <= difference + 1e-12) & (difference - 1e-12 <= intervals[:, 1])
        coverages.append(multinomial.pmf(counts, n, [win, loss, max(0.0, 1 - win - loss)])[inside].sum())
    assert len(coverages) > 60
    return min(coverages)


def exact_paired(wins: int, losses: int, n: int) -> Interval:
    return ends(paired_difference(*paired_records(wins, losses, n)))


def normal_paired(wins: int, losses: int, n: int) -> Interval:
    return normal_interval([1.0] * wins + [-1.0] * losses + [0.0] * (n - wins - losses))


@pytest.mark.parametrize("n", [1, 2, 5, 10, 20])
def test_paired_difference_covers_all_win_and_loss_rates(n: int) -> None:
    assert worst_paired_coverage(exact_paired, n) >= 0.95 - 1e-12


@pytest.mark.parametrize("n", [5, 10, 20])
def test_normal_interval_fails_the_coverage_check_of_paired_difference(n: int) -> None:
    assert worst_paired_coverage(normal_paired, n) < 0.5


def test_coverage_check_catches_a_guessed_loss_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit without its maximum over the loss rate, which is put where the data have it."""
    monkeypatch.setattr(estimate_module, "_clopper_pearson", lambda k, n, error: (k / (n + 1), k / (n + 1)))
    assert worst_paired_coverage(exact_paired, 10) < 0.94


def test_paired_difference_covers_where_few_problems_differ() -> None:
    n, win, loss = 120, 0.03, 0.02
    covered = normal_covered = seen = 0.0
    for i, j in product(range(11), range(9)):
        mass = float(multinomial.pmf([i, j, n - i - j], n, [win, loss, 1 - win - loss]))
        if mass < 1e-5:
            continue
        seen += mass
        low, high = exact_paired(i, j, n)
        covered += mass * (low <= win - loss <= high)
        low, high = normal_paired(i, j, n)
        normal_covered += mass * (low <= win - loss <= high)
    assert seen > 0.998 and covered >= 0.95
    assert normal_covered < covered


def test_paired_limit_is_the_smallest_difference_that_the_data_do_not_refute() -> None:
    """Against a brute-force maximum over a fine grid of rates, with the order of outcomes written out anew."""
    n, wins, losses, error = 12, 6, 1, 0.025

    def order(i: int, j: int) -> float:
        return i - j - 1.75 * math.sqrt(i + j + 1)

    extreme = [(i, j) for i in range(n + 1) for j in range(n + 1 - i) if order(i, j) >= order(wins, losses) - 1e-9]
    counts = np.array([(i, j, n - i - j) for i, j in extreme])
    unrefuted = [
        win - loss
        for win, loss in product(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
        if win + loss <= 1 and multinomial.pmf(counts, n, [win, loss, max(0.0, 1 - win - loss)]).sum() > error
    ]
    low, _ = exact_paired(wins, losses, n)
    assert min(unrefuted) - 0.04 < low <= min(unrefuted)


def test_paired_difference_is_antisymmetric() -> None:
    a, b = paired_records(9, 3, 50)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert (forward.value, forward.low, forward.high) == pytest.approx(
        (-backward.value, -backward.high, -backward.low), abs=1e-12
    )


@pytest.mark.parametrize(("wins", "losses", "n"), [(6, 6, 100), (15, 5, 100), (80, 20, 400), (200, 200, 2000)])
def test_paired_difference_is_sharper_than_two_exact_shares(wins: int, losses: int, n: int) -> None:
    low, high = exact_paired(wins, losses, n)
    win = proportion([True] * wins + [False] * (n - wins), level=0.975)
    loss = proportion([True] * losses + [False] * (n - losses), level=0.975)
    assert high - low < 0.8 * (win.high - loss.low - (win.low - loss.high))
    normal_low, normal_high = normal_paired(wins, losses, n)
    assert high - low > normal_high - normal_low


# --- mean ------------------------------------------------------------------------------------------------------------


def worst_coin_coverage(interval: Callable[[list[float]], Interval], n: int) -> float:
    """The smallest coverage for coins of every bias on a grid, by enumeration of all 2**n sequences."""
    sequences = [list(map(float, s)) for s in product((0, 1), repeat=n)]
    intervals = np.array([interval(s) for s in sequences])
    heads = np.array([sum(s) for s in sequences])
    coverages = []
    for p in np.linspace(0.01, 0.99, 99):
        inside = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
        coverages.append((p**heads * (1 - p) ** (n - heads))[inside].sum())
    return min(coverages)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_mean_covers_every_coin_exactly(level: float) -> None:
    assert worst_coin_coverage(lambda s: ends(mean(s, (0, 1), level)), 8) >= level - 1e-12


def test_normal_interval_fails_the_coverage_check_of_mean() -> None:
    assert worst_coin_coverage(normal_interval, 8) < 0.5


LAWS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "uniform": (lambda rng, n: rng.random(n), 0.5),
    "narrow": (lambda rng, n: rng.beta(20, 60, n), 0.25),
    "rare large values": (lambda rng, n: rng.random(n) ** 30, 1 / 31),
    "mostly zero": (lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.beta(2, 2, n)), 0.05),
}
REPETITIONS = 300
# A valid interval misses at most Binomial(300, 0.05) times, which exceeds this bound with probability below 1e-6.
MISSES_ALLOWED = int(binom.isf(1e-6, REPETITIONS, 0.05))


def count_misses(law: str, n: int, interval: Callable[[list[float]], Interval]) -> int:
    draw, truth = LAWS[law]
    rng = np.random.default_rng(20240611)
    intervals = [interval(draw(rng, n).tolist()) for _ in range(REPETITIONS)]
    return sum(not low <= truth <= high for low, high in intervals)


@pytest.mark.parametrize("law", LAWS)
def test_mean_covers_simulated_laws(law: str) -> None:
    assert count_misses(law, 25, lambda v: ends(mean(v, (0, 1)))) <= MISSES_ALLOWED


def test_normal_interval_fails_where_large_values_are_rare() -> None:
    assert count_misses("rare large values", 25, normal_interval) > MISSES_ALLOWED


def test_mean_is_sharper_than_hoeffding_where_the_variance_is_small() -> None:
    n = 400
    values = np.random.default_rng(1).beta(20, 60, n)
    hoeffding = 2 * math.sqrt(math.log(2 / 0.05) / (2 * n))
    estimate = mean(values.tolist(), (0, 1))
    low, high = normal_interval(values.tolist())
    assert (high - low) < estimate.high - estimate.low < min(2 * (high - low), 0.2 * hoeffding)


def test_mean_follows_shift_and_scale_and_hardly_the_order() -> None:
    values = np.random.default_rng(2).random(100)
    plain, scaled = mean(values.tolist(), (0, 1)), mean((7 * values - 3).tolist(), (-3, 4))
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(
        tuple(7 * x - 3 for x in (plain.low, plain.value, plain.high)), abs=1e-5
    )
    in_order = mean(np.sort(values).tolist(), (0, 1))
    assert ends(in_order) == pytest.approx(ends(plain), abs=0.1 * (plain.high - plain.low))


def test_mean_of_constant_values_stays_within_bounds() -> None:
    for constant in (0.0, 0.3, 1.0):
        estimate = mean([constant] * 50, (0, 1))
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
        assert estimate.high - estimate.low < 0.25
    assert ends(mean([0.5], (0, 1))) == pytest.approx((0, 1), abs=0.35)


def test_paired_mean_difference_is_the_mean_of_differences() -> None:
    rng = np.random.default_rng(3)
    b = rng.random(200)
    a = np.clip(b + 0.02 * rng.random(200), 0, 1)
    estimate = paired_mean_difference(a.tolist(), b.tolist(), (0, 1))
    assert estimate.value == pytest.approx(float((a - b).mean()))
    assert estimate == mean((a - b).tolist(), (-1, 1))
    # Pairing is what makes it sharp: two separate intervals would add their widths.
    apart = [mean(values.tolist(), (0, 1)) for values in (a, b)]
    assert estimate.high - estimate.low < 0.3 * sum(e.high - e.low for e in apart)


# --- median of ratios ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7, 20, 101])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_median_ratio_uses_the_innermost_ranks_that_cover(n: int, level: float) -> None:
    """The k-th smallest and k-th largest of n cover the median with probability 1 - 2 P(Binomial(n, 1/2) < k)."""
    ratios = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    estimate = median_ratio((3 * ratios).tolist(), [3.0] * n, level)
    rank = round(estimate.low)
    assert estimate.high == pytest.approx(n + 1 - rank) and estimate.value == pytest.approx((n + 1) / 2)
    assert 1 - 2 * binom.cdf(rank - 1, n, 0.5) >= level > 1 - 2 * binom.cdf(rank, n, 0.5)


def test_median_ratio_of_too_few_pairs_has_no_finite_interval() -> None:
    estimate = median_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert ends(estimate) == (0.0, math.inf) and "too few" in estimate.validity
    assert json.loads(json.dumps(estimate.to_json(), allow_nan=False))["high"] is None


# --- pass at k -------------------------------------------------------------------------------------------------------


def test_pass_at_k_counts_the_subsets_with_a_right_sample() -> None:
    for n in range(1, 7):
        for right, k in product(range(n + 1), range(1, n + 1)):
            draws = list(combinations([i < right for i in range(n)], k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_is_unbiased() -> None:
    n, k, p = 12, 4, 0.17
    expected = sum(binom.pmf(c, n, p) * pass_at_k(n, c, k) for c in range(n + 1))
    assert expected == pytest.approx(1 - (1 - p) ** k)
    plug_in = sum(binom.pmf(c, n, p) * (1 - (1 - c / n) ** k) for c in range(n + 1))
    assert abs(plug_in - (1 - (1 - p) ** k)) > 0.01


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


# --- the record itself, and mistakes ---------------------------------------------------------------------------------


def test_estimate_prints_value_interval_and_n() -> None:
    estimate = proportion([True] * 175 + [False] * 225)
    assert str(estimate) == f"{estimate}" == "0.438 [0.388, 0.488] (n=400)"
    assert f"{estimate:.0%}" == "44% [39%, 49%] (n=400)"
    looked = Estimate(0.5, 0.4, 0.6, 10, level=0.9, looks=3)
    assert str(looked) == "0.500 [0.400, 0.600] (n=10, level 0.9, 3 looks)"


def test_estimate_as_json_rebuilds_it() -> None:
    estimate = paired_difference(*paired_records(4, 2, 30))
    assert Estimate(**json.loads(json.dumps(estimate.to_json(), allow_nan=False))) == estimate
    assert estimate.method == "exact-paired" and estimate.validity.endswith(".")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: proportion([]), "at least one"),
        (lambda: proportion([0.5]), "neither true nor false"),  # type: ignore[list-item]
        (lambda: proportion([True], level=95), "95"),
        (lambda: paired_difference([True], [True, False]), "1 records and b 2"),
        (lambda: paired_difference([], []), "at least one"),
        (lambda: mean([], (0, 1)), "at least one"),
        (lambda: mean([0.5, 1.5], (0, 1)), "1.5, outside"),
        (lambda: mean([float("nan")], (0, 1)), "nan, outside"),
        (lambda: mean([0.5], (1, 0)), "smaller one first"),
        (lambda: mean([[0.5]], (0, 1)), "shape"),  # type: ignore[list-item]
        (lambda: paired_mean_difference([0.5], [0.5, 0.1], (0, 1)), "1 records and b 2"),
        (lambda: paired_mean_difference([0.5], [2.0], (0, 1)), "b holds 2.0"),
        (lambda: median_ratio([1.0, 0.0], [1.0, 1.0]), "0.0; a ratio"),
        (lambda: median_ratio([1.0], [1.0, 1.0]), "1 records and b 2"),
        (lambda: pass_at_k(4, 5, 1), "num_right=5"),
        (lambda: pass_at_k(4, 2, 0), "k=0"),
        (lambda: Estimate(0.9, 0.1, 0.5, 10), "outside its interval"),
        (lambda: Estimate(0.3, 0.1, 0.5, 0), "n=0"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()
