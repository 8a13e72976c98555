"""Figures with intervals that hold at the sample size used.

Every function takes one record per problem (never averages) and returns an ``Estimate``. The intervals are exact or
finite-sample: none leans on a central limit. All assume that the problems are independent draws from the population
that the figure is about; several samples of one problem are first reduced to one record, for instance by ``pass_at_k``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from outthink.core.errors import UserError

DEFAULT_LEVEL = 0.95

# Constants of the two intervals below. Validity does not depend on any of them, only width does.
_ORDER_Z = 1.75  # below 2, so that the order of outcomes rises with the wins and falls with the losses
_NUISANCE_SHARE = 0.02  # share of the error that pays for bounding the loss rate
_NUM_CELLS = 64  # cells over that bound; their width costs about 2% of the interval
_BET_CAP = 0.75  # the share of its wealth that a bet may lose at most
_NUM_ORDERS = 16  # orders of the records over which the wealth is averaged


@dataclass(frozen=True)
class Estimate:
    """A figure, the interval around it, and the reason why that interval may be trusted.

    ``validity`` is one sentence saying why the interval covers at this ``n``. ``looks`` counts how often these records
    have been consulted to decide what to report, this figure included; an interval is computed for one look, and more
    than one is printed beside it. Raises UserError where the numbers do not fit together.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = DEFAULT_LEVEL
    method: str = ""
    validity: str = ""
    looks: int = 1

    def __post_init__(self) -> None:
        _error_rate(self.level)
        if not self.low <= self.value <= self.high:
            raise UserError(f"Estimate {self.value!r} lies outside its interval [{self.low!r}, {self.high!r}].")
        if self.n < 1 or self.looks < 1:
            raise UserError(f"Estimate with n={self.n} and looks={self.looks}: both must be at least 1.")

    def __format__(self, spec: str) -> str:
        """``0.437 [0.388, 0.487] (n=400)``; ``spec`` is that of a float and applies to all three numbers."""
        value, low, high = (format(x, spec or ".3f") for x in (self.value, self.low, self.high))
        notes = [f"n={self.n}"]
        if self.level != DEFAULT_LEVEL:
            notes.append(f"level {self.level:g}")
        if self.looks > 1:
            notes.append(f"{self.looks} looks")
        return f"{value} [{low}, {high}] ({', '.join(notes)})"

    def __str__(self) -> str:
        return format(self)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values; an end of the interval at infinity becomes None."""
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}


def proportion(outcomes: Sequence[bool], level: float = DEFAULT_LEVEL) -> Estimate:
    """The share of true outcomes, with the exact interval of Clopper and Pearson (Biometrika 26, 1934)."""
    right = _outcomes("outcomes", outcomes)
    num_right, n = int(right.sum()), right.size
    low, high = _clopper_pearson(num_right, n, _error_rate(level))
    validity = "Inverts the exact binomial test, so it covers at least at its level for every n and every true share."
    return Estimate(num_right / n, low, high, n, level, "clopper-pearson", validity)


def paired_difference(a: Sequence[bool], b: Sequence[bool], level: float = DEFAULT_LEVEL) -> Estimate:
    """The share true in ``a`` minus the share true in ``b``, where entry i of both is about problem i.

    Exact unconditional limits: of all differences, those are kept at which no pair of win and loss rates would make an
    outcome this extreme rarer than the error rate allows. Where 20 or more problems differ it is 4 to 12% wider than
    the normal interval, which may fail to cover. Raises UserError on unequal lengths.

    Sources: Buehler (JASA 52, 1957) for limits from an order of outcomes; Lloyd and Moldovan (Statistics in Medicine
    26, 2007) for matched pairs; Berger and Boos (JASA 89, 1994) for bounding the nuisance parameter first.
    """
    first, second = _pair(_outcomes("a", a), _outcomes("b", b))
    wins, losses, n = int((first & ~second).sum()), int((~first & second).sum()), first.size
    error, value = _error_rate(level), (wins - losses) / n
    low = min(value, _difference_limit(wins, losses, n, error / 2))
    high = max(value, -_difference_limit(losses, wins, n, error / 2))
    validity = (
        "Inverts an exact test on wins and losses, maximised over their unknown rates, so it covers at least at its"
        " level for every n."
    )
    return Estimate(value, low, high, n, level, "exact-paired", validity)


def mean(values: Sequence[float], bounds: tuple[float, float], level: float = DEFAULT_LEVEL) -> Estimate:
    """The mean of values that cannot lie outside ``bounds``, with an interval by betting.

    A gambler bets that the mean is larger than m, at odds that are fair if it is m; a wealth of 1/error refutes m.
    Bets follow the variance seen so far, so that the width shrinks with it. The wealth is averaged over fixed orders
    of the records, so that sorting the records beforehand does little. For outcomes that are only true or false
    ``proportion`` and ``paired_difference`` are sharper. Raises UserError on a value outside ``bounds``.

    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (JRSS-B 86, 2024).
    """
    numbers, (lowest, highest) = _bounded("values", values, bounds)
    scale, error = highest - lowest, _error_rate(level)
    unit = (numbers - lowest) / scale
    value = float(numbers.mean())
    low = min(value, lowest + scale * _betting_limit(unit, error / 2))
    high = max(value, highest - scale * _betting_limit(1.0 - unit, error / 2))
    validity = (
        "The wealth of a fair bet exceeds 1/error with probability at most error (Markov), at every n and for every"
        " law on the stated bounds."
    )
    return Estimate(value, low, high, numbers.size, level, "betting", validity)


def paired_mean_difference(
    a: Sequence[float], b: Sequence[float], bounds: tuple[float, float], level: float = DEFAULT_LEVEL
) -> Estimate:
    """The mean of ``a`` minus that of ``b`` over the same problems: ``mean`` of the differences.

    ``bounds`` hold for the entries of ``a`` and of ``b``. Raises UserError as ``mean`` does, and on unequal lengths.
    """
    (first, (lowest, highest)), (second, _) = _bounded("a", a, bounds), _bounded("b", b, bounds)
    first, second = _pair(first, second)
    # Rounding may carry a difference of two bounded values past the widest one.
    span = highest - lowest
    return mean(np.clip(first - second, -span, span).tolist(), (-span, span), level)


def median_ratio(a: Sequence[float], b: Sequence[float], level: float = DEFAULT_LEVEL) -> Estimate:
    """The median over pairs of ``a[i] / b[i]``, for times of runs taken in turn; the sign test gives its interval.

    Below about six pairs (at level 0.95) no finite interval exists: then it is (0, inf) and ``validity`` says so.
    Raises UserError where a value is not positive. Source: Thompson (Annals of Mathematical Statistics 7, 1936).
    """
    from scipy.stats import binom

    first, second = _pair(_positive("a", a), _positive("b", b))
    ratios, error = np.sort(first / second), _error_rate(level)
    n = ratios.size
    rank = int(binom.ppf(error / 2, n, 0.5))  # the largest with P(Binomial(n, 1/2) < rank) < error / 2
    if rank == 0:
        validity = f"{n} pairs are too few for a finite interval at level {level:g}: take more."
        return Estimate(float(np.median(ratios)), 0.0, math.inf, n, level, "sign-test", validity)
    low, high = float(ratios[rank - 1]), float(ratios[n - rank])
    validity = "Order statistics chosen by the exact sign test, so it covers at least at its level for every law."
    return Estimate(float(np.median(ratios)), low, high, n, level, "sign-test", validity)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The probability that k of one problem's samples, drawn without replacement, hold a right one.

    Its expectation is ``1 - (1 - p) ** k`` where each sample is right with probability p. Feed one such number per
    problem to ``mean``. Source: Chen et al., Evaluating large language models trained on code (2021), equation 1.
    """
    if not (0 <= num_right <= num_samples and 1 <= k <= num_samples):
        raise UserError(
            f"pass_at_k({num_samples=}, {num_right=}, {k=}):"
            " needs 0 <= num_right <= num_samples and 1 <= k <= num_samples."
        )
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def _clopper_pearson(num_right: int, n: int, error: float) -> tuple[float, float]:
    from scipy.stats import beta

    low = float(beta.ppf(error / 2, num_right, n - num_right + 1)) if num_right else 0.0
    high = float(beta.ppf(1 - error / 2, num_right + 1, n - num_right)) if num_right < n else 1.0
    return low, high


def _difference_limit(wins: int, losses: int, n: int, error: float) -> float:
    """The lower limit of win rate minus loss rate that is exceeded with probability at most ``error``.

    The loss rate is first bounded, at the cost of a share of the error, and its range cut into cells [left, right].
    Outcomes at least as extreme as the one seen form a set that more wins or fewer losses never leave, so that its
    probability rises with the win rate and falls with the loss rate: over a cell, and over all differences up to
    ``difference``, it is at most the one at loss rate ``left`` and win rate ``difference + right``. The limit is
    where the largest of these bounds meets the error left. It is therefore safe between the points of the grid too.
    """
    from scipy.optimize import root_scalar
    from scipy.special import betainc, ndtri
    from scipy.stats import binom

    edges = np.linspace(*_clopper_pearson(losses, n, _NUISANCE_SHARE * error), _NUM_CELLS + 1)[:, None]
    left, right = edges[:-1], edges[1:]
    allowed = (1 - _NUISANCE_SHARE) * error

    # Loss counts within 4.5 standard deviations; what lies beyond (below 1e-5) counts as extreme.
    reach = math.ceil(4.5 * math.sqrt(n * float(np.max(edges * (1 - edges))))) + 9
    num_losses = np.rint(n * left) + np.arange(-reach, reach + 1)
    weight = binom.pmf(num_losses, n, left)
    rest = 1.0 - weight.sum(axis=1)
    num_losses = np.clip(num_losses, 0, n)  # weight is 0 where this changes anything
    needed = _wins_needed(num_losses, wins, losses)
    never, always = needed > n - num_losses, needed <= 0
    shape = np.maximum(needed, 1), np.maximum(n - num_losses - needed + 1, 1)

    def extreme(difference: float) -> float:
        """An upper bound on the probability of the set at any difference up to this one, in standard deviations."""
        share = np.clip((difference + right) / (1 - left), 0.0, 1.0)  # of wins among the problems not lost
        tail = np.where(always, 1.0, np.where(never, 0.0, betainc(*shape, share)))
        bound = np.where((difference + right)[:, 0] < 0, 0.0, (weight * tail).sum(axis=1) + rest)
        return float(ndtri(np.clip(bound.max(), 1e-12, 1 - 1e-12)) - ndtri(allowed))

    value, spread = (wins - losses) / n, math.sqrt(wins + losses + 1) / n
    start = max(-1.0, value - 5 * spread)
    if extreme(start) > 0:
        start = -1.0
        if extreme(start) > 0:
            return -1.0
    end = value if extreme(value) > 0 else 1.0
    tolerance = 0.005 * spread
    crossing = root_scalar(extreme, bracket=(start, end), method="brentq", xtol=tolerance).root
    return max(-1.0, float(crossing) - tolerance)


def _wins_needed(num_losses: np.ndarray, wins: int, losses: int) -> np.ndarray:
    """For each number of losses, the fewest wins that are at least as extreme as ``wins`` against ``losses``.

    Outcomes are ordered by ``wins - losses - z * sqrt(wins + losses + 1)``, a lower limit in units of 1/n. It rises
    with wins and falls with losses as z < 2. With s for the root: s**2 - z * s - 1 - 2 * losses, solved for s.
    """
    seen = wins - losses - _ORDER_Z * math.sqrt(wins + losses + 1)
    square = _ORDER_Z**2 / 4 + 1 + 2 * num_losses + seen
    root = _ORDER_Z / 2 + np.sqrt(np.maximum(square, 0.0))
    needed = np.where(square < 0, 0.0, root**2 - 1 - num_losses)
    return np.maximum(np.ceil(needed - 1e-9), 0.0)  # rounding may only enlarge the set: the outcome seen is in it


def _betting_limit(unit: np.ndarray, error: float) -> float:
    """The lower limit of the mean of ``unit``, values in [0, 1], that is exceeded with probability at most ``error``.

    Each factor of the wealth falls as m rises, so the refuted means are all those below one point, found by bisection.
    """
    n, goal = unit.size, math.log(1 / error)
    orders = np.random.default_rng(0)
    shuffled = np.stack([unit[orders.permutation(n)] for _ in range(_NUM_ORDERS)])
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shuffled, axis=1)) / (count + 1)
    variances = (0.25 + np.cumsum((shuffled - means) ** 2, axis=1)) / (count + 1)
    # A bet may know only what came before it: the first stands on the prior variance of 1/4.
    before = np.concatenate([np.full((_NUM_ORDERS, 1), 0.25), variances[:, :-1]], axis=1)
    bets = np.sqrt(2 * goal / (n * before))

    low, high = 0.0, 1.0
    for _ in range(24):
        m = (low + high) / 2
        log_wealth = np.log1p(np.minimum(bets, _BET_CAP / m) * (shuffled - m)).sum(axis=1)
        if np.logaddexp.reduce(log_wealth) - math.log(_NUM_ORDERS) >= goal:
            low = m
        else:
            high = m
    return low


def _error_rate(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise UserError(f"Level {level!r} is not between 0 and 1; 0.95 is usual.")
    return 1.0 - level


def _outcomes(name: str, records: Sequence[bool]) -> np.ndarray:
    array = _records(name, records)
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise UserError(f"{name} holds {wrong[0]!s}, which is neither true nor false. For other numbers use mean().")
    return array == 1


def _bounded(
    name: str, records: Sequence[float], bounds: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    lowest, highest = float(bounds[0]), float(bounds[1])
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
        raise UserError(f"Bounds {bounds!r} must be two finite numbers, the smaller one first.")
    array = _records(name, records)
    wrong = array[~((array >= lowest) & (array <= highest))]
    if wrong.size:
        raise UserError(f"{name} holds {wrong[0]!s}, outside the bounds [{lowest:g}, {highest:g}].")
    return array, (lowest, highest)


def _positive(name: str, records: Sequence[float]) -> np.ndarray:
    array = _records(name, records)
    wrong = array[~((array > 0) & np.isfinite(array))]
    if wrong.size:
        raise UserError(f"{name} holds {wrong[0]!s}; a ratio needs positive finite numbers.")
    return array


def _records(name: str, records: Sequence[float]) -> np.ndarray:
    array = np.asarray(records, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"{name} has shape {array.shape}; give one record per problem, and at least one.")
    return array


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.size != b.size:
        raise UserError(
            f"a has {a.size} records and b {b.size}; a paired figure needs one of each per problem, in the same order."
        )
    return a, b
