"""When to stop, against brute force: the Beta posterior of a lead, and the best number of tries past a checker."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_law

from outthink.core.errors import UserError
from outthink.posterior.mixture import Weibull, fit
from outthink.posterior.stopping import Resampling, probability_of_lead


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 2), (9, 9), (30, 12)])
def test_probability_of_lead_is_the_integral(first, second):
    density = beta_law(first + 1, second + 1).pdf
    assert probability_of_lead(first, second) == pytest.approx(quad(density, 0.5, 1)[0])


def test_a_lead_that_counts_as_settled_lasts_as_often_as_promised():
    """4,000 worlds of two answers, the share drawn uniformly: of those stopped at 0.9, at most 0.1 stopped wrongly.

    The rate must lie below 0.1 and four standard errors. Stopping at a fixed lead of one vote must fail.
    """
    rng = np.random.default_rng(0)
    wrong, hasty, num = 0, 0, 4000
    for share in rng.uniform(size=num):
        votes = np.zeros(2)
        for _ in range(400):
            votes[int(rng.uniform() > share)] += 1
            if votes.sum() == 1:
                hasty += (votes[0] > votes[1]) != (share > 0.5)
            if probability_of_lead(votes.max(), votes.min()) >= 0.9:
                break
        wrong += (votes[0] > votes[1]) != (share > 0.5)
    assert wrong / num < 0.1 + 4 * math.sqrt(0.09 / num)
    assert hasty / num > 0.2


RATES = st.tuples(st.floats(0.3, 1.0), st.floats(0.0, 0.5), st.floats(0.0, 4.0), st.floats(0.0, 0.05))


@settings(max_examples=40, deadline=None)
@given(rates=RATES, alpha=st.floats(0.2, 3), beta=st.floats(0.2, 3))
def test_the_best_number_of_tries_is_that_of_brute_force(rates, alpha, beta):
    """Value of every number of tries, by summing over tries; and the first maximum of it."""
    accepts_right, accepts_wrong, wrong_cost, line_cost = rates
    model = Resampling.beta(alpha, beta, accepts_right, accepts_wrong, wrong_cost, line_cost)
    accepted = model.right * accepts_right + (1 - model.right) * accepts_wrong
    values, alive, total = [0.0], model.prior.copy(), 0.0
    for _ in range(60):
        gain = model.right * accepts_right - wrong_cost * (1 - model.right) * accepts_wrong - line_cost
        total += float(alive @ gain)
        alive = alive * (1 - accepted)
        values.append(total)
    for tries in (0, 1, 7, 60):
        assert model.value(tries) == pytest.approx(values[tries], abs=1e-9)
    assert values[model.best_number(60)] == pytest.approx(max(values), abs=1e-9)


def test_false_acceptances_cap_the_accuracy():
    fooled, sound = Resampling.beta(0.5, 0.5, 1.0, 0.1), Resampling.beta(0.5, 0.5, 1.0, 0.0)
    assert sound.accuracy(10**6) > 0.99
    assert fooled.accuracy(10**6) == pytest.approx(fooled.ceiling)
    assert fooled.ceiling < 0.85
    assert fooled.accuracy(5) < fooled.ceiling
    assert fooled.best_number() < 10, "with costly mistakes, few tries are best"
    assert sound.best_number(500) == 500, "a sound checker is always worth another try"


def test_confidence_is_the_probability_of_being_right_by_simulation():
    """100,000 problems: of those accepted at the fifth try, the share that is right, within five standard errors."""
    model, rng = Resampling.beta(0.5, 0.5, 0.9, 0.2), np.random.default_rng(0)
    share = rng.choice(model.right, size=100_000)
    right = rng.uniform(size=(100_000, 5)) < share[:, None]
    accepted = rng.uniform(size=right.shape) < np.where(right, 0.9, 0.2)
    fifth = accepted[:, 4] & ~accepted[:, :4].any(axis=1)
    rate = right[fifth, 4].mean()
    assert model.confidence(4) == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / fifth.sum()))
    assert model.confidence(0) > model.confidence(4) + 0.1


def test_mistakes_are_user_errors():
    for options, message in (
        ((0.0, 1.0, 1.0, 0.1), "alpha"),
        ((1.0, 1.0, 0.0, 0.1), "accepts_right"),
        ((1.0, 1.0, 1.0, 1.1), "accepts_wrong"),
        ((1.0, 1.0, 1.0, 0.1, -1.0), "wrong_cost"),
    ):
        with pytest.raises(UserError, match=message):
            Resampling.beta(*options)


def test_weibull_density_is_scipy_s():
    from scipy.stats import weibull_min

    x = np.linspace(0.1, 4, 9)
    law = Weibull(1.7, 0.8)
    assert law.log_density(x) == pytest.approx(weibull_min.logpdf(x, 1.7, scale=0.8))
    assert law.mean == pytest.approx(weibull_min.mean(1.7, scale=0.8))


def test_mixture_finds_two_groups_and_its_likelihood_never_falls():
    rng = np.random.default_rng(0)
    low, high = 0.3 * rng.weibull(6, size=300), 0.9 * rng.weibull(12, size=700)
    found = fit([*low, *high])
    assert found is not None
    assert found.low.scale == pytest.approx(0.3, rel=0.05)
    assert found.high.scale == pytest.approx(0.9, rel=0.05)
    assert found.share == pytest.approx(0.7, abs=0.05)
    assert (np.diff(found.log_likelihood) > -1e-6).all()
    right = (found.belongs_high(low) < 0.5).mean(), (found.belongs_high(high) >= 0.5).mean()
    assert min(right) > 0.95


@pytest.mark.parametrize("values", [[], [0.5], [0.5] * 9, [0.1, 0.2, 0.2, 0.1]])
def test_no_mixture_where_there_is_nothing_to_tell_apart(values):
    assert fit(values) is None


@pytest.mark.parametrize("rates", [(0.05, 0.5), (0.05, 0.11), (0.3, 0.9), (0.6, 0.6), (0.9, 0.1)])
@pytest.mark.parametrize("costs", [(0.11, 0.0), (0.5, 0.0), (0.2, 0.01), (0.0, 0.02)])
def test_no_number_of_lines_is_worth_more_whatever_the_checker(rates, costs):
    """Also of a checker that accepts wrong lines more often than right ones, where the gain of the next line rises."""
    model = Resampling.beta(0.5, 0.5, *rates, *costs)
    best = model.best_number(64)
    assert model.value(best) == pytest.approx(max(model.value(k) for k in range(65)), abs=1e-12)
    assert model.value(best) >= 0


def test_one_line_may_be_a_loss_and_many_a_gain():
    model = Resampling.beta(0.5, 0.5, 0.05, 0.5, 0.11)
    assert model.gain_of_next(0) < 0 < model.value(64)
    assert model.best_number(64) > 1
