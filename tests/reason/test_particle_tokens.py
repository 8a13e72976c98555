"""Token-level and twisted SMC against enumeration, and bounds on log Z from both sides.

Statistical checks fail by chance with a probability below 1e-5.
"""

import functools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from outthink.core.budget import Budget
from outthink.core.errors import SamplingError, UserError
from outthink.posterior.potential import Product
from outthink.reason.holding import Holding
from outthink.reason.particles import bounds as bounds_module
from outthink.reason.particles.bounds import evidence_bounds
from outthink.reason.particles.guide import NoTwist
from outthink.reason.particles.sweep import Plan
from outthink.reason.particles.target import Weighted, prefix_of
from outthink.reason.particles.tokens import Twisted, token_smc, twisted_smc
from outthink.reason.segment import Segmenter
from outthink.reason.solve import think
from particle_world import (
    ALPHABET,
    LONGEST,
    PROMPT,
    Judge,
    by_answer,
    islands,
    lines,
    model,
    question,
    tilted,
    z_scores,
)

ASKED, TOKEN = question(), Plan(Segmenter.of("tokens:1"), floor=1.0)


class Whole:
    """A potential that says nothing before a line is whole."""

    def __init__(self, judge):
        self.judge = judge

    def log_potential(self, prefix):
        return self.judge.of(prefix.text) if prefix.whole else 0.0


class Rare:
    """Lines must spell one word and nothing else: a constraint that few lines of the model meet."""

    def of(self, text):
        return 0.0 if text in ("bab\na", "abaab") else -math.inf

    def log_potential(self, prefix):
        return self.of(prefix.text) if prefix.whole else 0.0


class Forecast:
    """The best possible twist of ``judge``, from enumeration, plus ``noise`` that depends on the prefix."""

    def __init__(self, judge, noise=0.0):
        self.lm, self.judge, self.noise = model(), judge, noise
        self.worth, self.biases = functools.cache(self._worth), functools.cache(self._biases)

    def _worth(self, line):
        """log of the expected potential of a line that begins with ``line``."""
        text = self.lm.spell(line)
        if (line and line[-1] == self.lm.end) or len(line) >= LONGEST:
            return self.judge.of(text)
        law = self.lm.log_probs(self.lm.encode(PROMPT) + line)
        return float(np.logaddexp.reduce([law[t] + self.worth((*line, t)) for t in range(len(ALPHABET) + 1)]))

    def log_twist(self, prefix):
        return self.worth(prefix.tokens) + self.noise * Judge(1.0, veto=False).of(prefix.text + "a")

    def log_biases(self, prefix):
        return self.biases(prefix.tokens)

    def _biases(self, line):
        tokens = range(len(ALPHABET) + 1)
        noise = [self.noise * Judge(1.0, veto=False).of(self.lm.spell(line) + "b" * t) for t in tokens]
        worth = [self.worth((*line, t)) for t in tokens]
        if max(worth) == -math.inf:
            return {}
        return {t: max(w, -50.0) + noise[t] for t, w in enumerate(worth)}


def exact(judge):
    return tilted(ASKED, judge.of, steps="never")


async def test_weighing_at_the_end_is_unbiased_token_by_token():
    judge, lm = Judge(), model()
    truth = exact(judge)
    sweeps = await islands(ASKED, lm, Weighted(Whole(judge)), TOKEN, 250, 4)
    assert np.abs(z_scores(by_answer(ASKED, sweeps, list(truth)), np.array(list(truth.values())))).max() < 4.5


@pytest.mark.parametrize("noise", [0.5, 1.5], ids=["good forecast", "poor forecast"])
async def test_any_twist_is_unbiased(noise):
    judge, lm = Judge(), model()
    truth, twist = exact(judge), Forecast(judge, noise)
    target = Twisted(Weighted(Whole(judge)), twist, lm.sampling)
    sweeps = await islands(ASKED, lm, target, TOKEN, 250, 4)
    assert np.abs(z_scores(by_answer(ASKED, sweeps, list(truth)), np.array(list(truth.values())))).max() < 4.5


async def test_a_proposal_that_is_not_weighed_is_caught():
    judge, lm = Judge(), model()
    truth, twist = exact(judge), Forecast(judge, 1.0)
    target = Twisted(Weighted(Whole(judge)), twist, lm.sampling)
    target.corrected = False
    sweeps = await islands(ASKED, lm, target, TOKEN, 250, 4)
    assert np.abs(z_scores(by_answer(ASKED, sweeps, list(truth)), np.array(list(truth.values())))).max() > 6


async def test_temperature_is_weighed_away():
    """Proposals at temperature 1.5, slowly sampled: the target is still the model's own law."""
    judge = Judge(veto=False)
    truth = exact(judge)
    lm = model(temperature=1.5)
    sweeps = await islands(ASKED, lm, Twisted(Weighted(Whole(judge)), NoTwist(), lm.sampling), TOKEN, 100, 4)
    assert np.abs(z_scores(by_answer(ASKED, sweeps, list(truth)), np.array(list(truth.values())))).max() < 4.5


async def test_with_the_best_twist_every_particle_weighs_the_evidence():
    judge = Judge()
    found = await think(
        ASKED, model(), twisted_smc, n=8, islands=2, potential=Whole(judge), twist=Forecast(judge), floor=0.0
    )
    assert found.log_evidence == pytest.approx(math.log(sum(exact(judge).values())), abs=1e-5)
    assert found.log_evidence_se < 1e-5


async def test_a_rare_constraint_kills_untwisted_runs_and_no_twisted_one():
    rare, twisted, plain = Rare(), 0, 0
    share = sum(math.exp(log_prob) for text, log_prob, _ in lines(ASKED) if rare.of(text) == 0.0)
    assert 1e-4 < share < 1e-2
    for seed in range(20):
        options = {"n": 16, "potential": rare}
        found = await think(ASKED, model(seed=seed), token_smc, **options)
        plain += found.log_evidence == -math.inf
        found = await think(ASKED, model(seed=seed), twisted_smc, twist=Forecast(rare, 0.3), **options)
        twisted += found.log_evidence == -math.inf
        assert set(found.weights) <= {"a", "b"}
    assert plain >= 15
    assert twisted == 0


async def test_products_of_potentials_are_potentials():
    judge, lm = Judge(), model()
    truth = tilted(ASKED, lambda text: judge.of(text) + Judge(1.0, veto=False).of(text), steps=None)
    target = Weighted(Product([judge, Judge(1.0, veto=False)]))
    table = by_answer(ASKED, await islands(ASKED, lm, target, TOKEN, 250, 4), list(truth))
    assert np.abs(z_scores(table, np.array(list(truth.values())))).max() < 4.5


@pytest.mark.parametrize("noise", [None, 1.0], ids=["no twist", "a poor twist"])
async def test_bounds_hold_the_truth_between_them(noise):
    judge = Judge(3.0)
    truth = math.log(sum(exact(judge).values()))
    twist = None if noise is None else Forecast(judge, noise)
    found = await evidence_bounds(ASKED, lm := model(), Whole(judge), lm.ledger, twist=twist, n=3, runs=80, floor=1.0)
    assert found.lower - 4.5 * found.lower_se < truth < found.upper + 4.5 * found.upper_se
    assert found.gap > 0
    assert found.lower < truth
    assert found.upper > truth


async def test_bounds_of_the_best_twist_touch():
    judge = Judge()
    lm, twist = model(), Forecast(judge)
    found = await evidence_bounds(ASKED, lm, Whole(judge), lm.ledger, twist=twist, n=2, runs=4)
    truth = math.log(sum(exact(judge).values()))
    assert found.lower == pytest.approx(truth, abs=1e-5)
    assert found.upper == pytest.approx(truth, abs=1e-5)


async def test_more_particles_close_the_gap():
    judge = Judge(3.0)
    few, many = [await evidence_bounds(ASKED, lm := model(), Whole(judge), lm.ledger, n=n, runs=60) for n in (2, 16)]
    assert many.gap < few.gap / 2


@pytest.mark.parametrize("honest", [True, False], ids=["by rejection", "accepting every line"])
async def test_exact_draws_follow_the_target(honest):
    """Chi-square of 500 lines; lines that were not rejected must fail it."""
    judge, lm = Judge(3.0), model()
    law = exact(judge)
    async with Holding() as held:
        root = await lm.root(PROMPT)
        accept = Weighted(Whole(judge) if honest else bounds_module.NEUTRAL)
        drawn = await bounds_module._exact_draws(ASKED, root, accept, TOKEN, 0, lm.ledger, 500, 10**4, held)
    counts = Counter(ASKED.answer_of(line[-1].tip) for line in drawn)
    assert len(drawn) == 500
    assert all(line[-1].whole and line[-1].line == line for line in drawn)
    expected = [500 * weight / sum(law.values()) for weight in law.values()]
    assert (chisquare([counts[answer] for answer in law], expected).pvalue > 1e-5) == honest


async def test_what_is_proposed_is_traced_back():
    """log p - log q of a retained line, as told by tokens drawn beside it, is that of the enumerated proposal."""
    judge = Judge()
    lm, twist = model(), Forecast(judge, 0.5)
    target = Twisted(Weighted(Whole(judge)), twist, lm.sampling)
    async with Holding() as held:
        root = await lm.root(PROMPT)
        goal = Weighted(Whole(judge))
        drawn = await bounds_module._exact_draws(ASKED, root, goal, TOKEN, 0, lm.ledger, 5, 1000, held)
        for line in drawn:
            for after in await bounds_module._retrace(line, target, held):
                if after.tip.tokens:
                    before = prefix_of(after.tip.parent, False)
                    biases = twist.log_biases(before)
                    law = lm.log_probs(lm.encode(PROMPT) + before.tokens)
                    norm = np.logaddexp.reduce([law[t] + biases.get(t, 0.0) for t in range(len(law))])
                    assert after.log_ratio == pytest.approx(norm - biases.get(after.tip.tokens[0], 0.0), abs=1e-5)


async def test_bounds_end_with_the_budget():
    lm = model(Budget(tokens=50))
    found = await evidence_bounds(ASKED, lm, Whole(Judge()), lm.ledger, n=4, runs=4)
    assert lm.ledger.bill.tokens <= 50
    assert found.upper == math.inf or found.upper_se is None or found.upper >= found.lower


async def test_mistakes_are_user_errors():
    lm = model()

    class Above:
        def log_potential(self, prefix):
            return 1.0

    with pytest.raises(UserError, match="at most 0"):
        await evidence_bounds(ASKED, lm, Above(), lm.ledger, n=2, runs=2)
    for sampling in ({"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.5}):
        with pytest.raises(SamplingError, match="no top_k"):
            await think(ASKED, model(**sampling), twisted_smc, potential=Whole(Judge()))
    with pytest.raises(SamplingError, match="temperature 1"):
        await evidence_bounds(ASKED, lm := model(temperature=0.5), Whole(Judge()), lm.ledger)
