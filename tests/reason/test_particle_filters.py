"""Particle filters against enumeration: unbiased evidence, the right posterior, and broken variants that are caught.

Each check compares the mean of some hundred independent sweeps with an exact sum, in units of its standard error, and
fails by chance with a probability below 1e-5 for each answer (4.5 standard errors, and a little for heavy tails).
"""

import math

import numpy as np
import pytest

from outthink.core.budget import Budget
from outthink.core.errors import UnknownNameError, UserError
from outthink.posterior.evidence import pool
from outthink.posterior.resampling import RESAMPLERS, effective_size, perplexity
from outthink.reason.particles import sweep as sweep_module
from outthink.reason.particles.filters import entropic_particle_filter, particle_filter
from outthink.reason.particles.sweep import Plan
from outthink.reason.particles.target import Verified, Weighted
from outthink.reason.segment import Segmenter
from outthink.reason.solve import think
from outthink.reason.weighted_vote import weighted_vote
from particle_world import (
    LONGEST,
    PROMPT,
    Judge,
    answered_early,
    by_answer,
    islands,
    last_letter,
    model,
    question,
    tilted,
    z_scores,
)

NEWLINE, TOKEN = Segmenter.of("newline"), Segmenter.of("tokens:1")
PLANS = {
    **{name: Plan(NEWLINE, resample=scheme, floor=1.0) for name, scheme in RESAMPLERS.items()},
    "by effective size": Plan(NEWLINE, floor=0.6),
    "by entropy": Plan(NEWLINE, size=perplexity, floor=0.8),
    "flattened": Plan(NEWLINE, size=perplexity, floor=0.9, flat=True),
    "flattened all the way": Plan(NEWLINE, floor=1.0, flat=True),
    "tempered": Plan(NEWLINE, floor=1.0, early=0.4),
    "two steps at once": Plan(NEWLINE, floor=1.0, every=2),
    "never resampled": Plan(NEWLINE, floor=0.0),
    "powered": Plan(NEWLINE, floor=1.0, power=0.5),
}


async def scores(plan, num=250, size=4, parse=last_letter, spread=2.0):
    asked, judge, lm = question(parse), Judge(spread), model()
    exact = tilted(asked, lambda text: plan.log_factor(judge.of(text), True))
    sweeps = await islands(asked, lm, Verified(asked, judge, lm.ledger), plan, num, size)
    answers = list(exact)
    table = by_answer(asked, sweeps, answers)
    return z_scores(np.c_[table, table.sum(axis=1)], np.array([*exact.values(), sum(exact.values())]))


@pytest.mark.parametrize("name", PLANS)
async def test_evidence_and_every_answer_s_share_of_it_are_unbiased(name):
    assert np.abs(await scores(PLANS[name])).max() < 4.5


async def test_lines_that_answer_in_a_finished_step_are_whole():
    assert np.abs(await scores(PLANS["systematic"], parse=answered_early)).max() < 4.5


async def test_token_by_token_with_a_potential():
    asked, judge, lm = question(), Judge(), model()
    exact = tilted(asked, judge.of, steps=None)
    sweeps = await islands(asked, lm, Weighted(judge), Plan(TOKEN, floor=1.0), 300, 4)
    table = by_answer(asked, sweeps, list(exact))
    assert np.abs(z_scores(table, np.array(list(exact.values())))).max() < 4.5


async def test_a_missing_incremental_weight_is_caught():
    class Forgets(Plan):
        def log_increment(self, before, after):
            counted = after.whole or after.log_potential == -math.inf
            return super().log_increment(before, after) if counted else 0.0

    assert np.abs(await scores(Forgets(NEWLINE, floor=1.0))).max() > 6


async def test_an_increment_that_forgets_what_was_counted_before_is_caught():
    class Twice(Plan):
        def log_increment(self, before, after):
            return self.log_factor(after.log_potential, after.whole)

    assert np.abs(await scores(Twice(NEWLINE, floor=1.0))).max() > 6


async def test_resampling_without_resetting_the_weights_is_caught(monkeypatch):
    honest = sweep_module.resample

    def keeps(particles, plan, draws, conditional):
        old = {p.tip: p.log_weight for p in particles}
        return [sweep_module.replace(p, log_weight=old[p.tip]) for p in honest(particles, plan, draws, conditional)]

    monkeypatch.setattr(sweep_module, "resample", keeps)
    assert np.abs(await scores(PLANS["systematic"])).max() > 6


async def test_a_flattened_draw_that_resets_all_weights_is_caught(monkeypatch):
    honest = sweep_module.resample

    def levels(particles, plan, draws, conditional):
        after, mean = honest(particles, plan, draws, conditional), sweep_module.log_mean_exp
        if after is particles:
            return particles
        return [sweep_module.replace(p, log_weight=mean([q.log_weight for q in particles])) for p in after]

    monkeypatch.setattr(sweep_module, "resample", levels)
    assert np.abs(await scores(Plan(NEWLINE, floor=1.0, flat=True), size=8)).max() > 6


@pytest.mark.parametrize("method", [particle_filter, entropic_particle_filter], ids=lambda m: m.name)
async def test_answer_shares_and_evidence_of_the_strategy(method):
    """300 islands: the evidence within 4.5 of its own standard errors, shares within 0.06 of the exact ones."""
    asked, judge, lm = question(), Judge(), model()
    exact = tilted(asked, judge.of)
    total = sum(exact.values())
    found = await think(asked, lm, method, judge, n=1200, islands=300)
    assert found.evidence_runs == 300
    assert abs(found.log_evidence - math.log(total)) < 4.5 * found.log_evidence_se
    assert found.log_evidence_se < 0.08
    shares = found.weights
    for answer, weight in exact.items():
        if answer is not None:
            assert shares[answer] == pytest.approx(weight / total, abs=0.06)
    assert found.attempts == 1200


async def test_weighted_votes_are_the_sums_and_tend_to_the_enumerated_ones():
    """Line by line for 40 lines; and the evidence of 3,000 within 4.5 of its own standard errors of the exact one."""
    asked, judge = question(), Judge()
    root = await model().root(PROMPT)
    sums = {}
    for line in await root.extend(40):
        answer = asked.answer_of(line)
        sums[answer] = sums.get(answer, 0.0) + math.exp(judge.of(line.full_text))
    found = await think(asked, model(), weighted_vote, judge, n=40)
    total = sum(sums.values())
    assert found.weights == pytest.approx({a: w / total for a, w in sums.items() if a is not None and w > 0})
    assert found.log_evidence == pytest.approx(math.log(total / 40))
    exact = tilted(asked, judge.of, steps="never")
    many = await think(asked, model(seed=1), weighted_vote, judge, n=3000)
    assert abs(many.log_evidence - math.log(sum(exact.values()))) < 4.5 * many.log_evidence_se
    for answer, weight in exact.items():
        if answer is not None:
            assert many.weights[answer] == pytest.approx(weight / sum(exact.values()), abs=0.03)


async def test_standard_error_covers():
    """60 groups of 8 islands: the interval must hold the truth in 0.95 of them; 0.85 allows for the skewness of Z and
    three standard errors of the rate. Taking the particles of a group for independent must fail to cover.
    """
    asked, judge, lm, plan = question(), Judge(), model(), Plan(NEWLINE, floor=1.0)
    truth = math.log(sum(tilted(asked, judge.of).values()))
    sweeps = await islands(asked, lm, Verified(asked, judge, lm.ledger), plan, 480, 4)
    covered = naive = 0
    for group in (sweeps[i : i + 8] for i in range(0, 480, 8)):
        found = pool([one.log_z for one in group], [4] * 8)
        low, high = found.interval()
        covered += low <= truth <= high
        size = effective_size([p.log_weight for one in group for p in one.particles])
        naive += abs(found.log_z - truth) <= 1.96 * math.sqrt(1 / size - 1 / 32)
    assert covered >= 51
    assert naive < 51


async def test_with_the_exact_checker_the_evidence_is_the_rate_of_right_lines():
    asked = question(right="b")
    exact = sum(math.exp(lp) for answer, lp in await _law(asked) if answer == "b")
    found = await think(asked, model(), particle_filter, "exact", n=800, islands=200)
    assert abs(found.log_evidence - math.log(exact)) < 4.5 * found.log_evidence_se
    assert found.weights == {"b": pytest.approx(1.0)}


async def _law(asked):
    lm = model()
    return [
        (asked.parse(text) if finish == "stop" else None, log_prob)
        for text, log_prob, finish in lm.enumerate("a", LONGEST)
    ]


async def test_where_every_line_is_ruled_out_the_lines_vote():
    found = await think(question(right="never"), model(seed=4), particle_filter, "exact", n=32)
    assert found.stopped == "no line passed the verifier"
    assert found.log_evidence == -math.inf
    assert found.log_evidence_se is None
    assert found.best is not None


async def test_finished_and_dead_particles_cost_nothing_more():
    """Every branch in the tree is a step that some live particle took: no more tokens than those of the tree."""
    lm = model()
    found = await think(question(), lm, particle_filter, Judge(), n=64)
    tree = sum(t.tokens for t in found.tree.walk())
    assert lm.ledger.bill.decoded == tree
    for thought in found.tree.walk():
        if thought.children and thought.parent is not None and thought.parent.parent is not None:
            assert thought.text.endswith("\n"), "a line that had ended was extended"
            assert thought.value > -math.inf, "a line that was ruled out was extended"


async def test_budget_buys_whole_lines():
    """Under a budget for about thirty lines, most of what is begun is finished, and there is an answer."""
    whole = model()
    await think(question(), whole, particle_filter, Judge(), n=64)
    found = await think(question(), model(Budget(tokens=60)), particle_filter, Judge(), n=64)
    assert found.best is not None
    assert found.cost.tokens <= 60
    assert found.cost.tokens > 40, "the budget was left lying"


async def test_a_first_line_that_is_ruled_out_tells_what_lines_cost_all_the_same(monkeypatch):
    """It dies after a token or two. Were the rest planned by that, each of many particles would be cut."""

    class Strict(Judge):
        def of(self, text):
            return 0.0 if not text or text.startswith("b") else -math.inf

    async def answered():
        found = [
            await think(question(answers), model(Budget(tokens=40), seed, 12), particle_filter, Strict(), n=64)
            for seed in range(80)
        ]
        return sum(one.best is not None for one in found)

    def answers(text):
        return text.rstrip()[-1:] or None

    async def unwritten(self, particle):
        return particle

    with_it = await answered()
    monkeypatch.setattr(sweep_module._Mover, "write_on", unwritten)
    assert with_it >= 75 > 70 >= await answered()


async def test_mistakes_are_user_errors_before_anything_is_spent():
    lm = model()
    for options, message in (
        ({"floor": 1.5}, "floor=1.5"),
        ({"early": -1}, "early=-1"),
        ({"every": 0}, "every=0"),
        ({"islands": 0}, "islands=0"),
        ({"steps": "verse"}, "steps='verse'"),
    ):
        with pytest.raises(UserError, match=message):
            await think(question(), lm, particle_filter, Judge(), **options)
    with pytest.raises(UnknownNameError, match="Known: multinomial"):
        await think(question(), lm, particle_filter, Judge(), resampling="lottery")
    assert lm.ledger.bill.tokens == 0


async def test_particles_that_the_budget_cuts_keep_their_weight_and_are_told_of():
    """Their weight so far is on no answer, the run is no part of the evidence, and the budget is why it stopped."""
    seen = 0
    for seed in range(20):
        lm = model(Budget(tokens=60), seed)
        found = await think(question(), lm, particle_filter, Judge(), n=64)
        cut = [thought for thought in lm.tree.walk() if thought.fate == "cut by the budget"]
        if cut and found.best is not None:
            seen += 1
            assert found.stopped == "budget" and found.evidence_cut > 0
            assert math.fsum(found.weights.values()) < 1 and found.to_json()["unassigned"] > 0
    assert seen > 5
