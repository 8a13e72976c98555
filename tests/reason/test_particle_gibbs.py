"""Particle Gibbs against enumeration: a conditional sweep leaves the exact target invariant, and broken ones do not.

Chi-square tests and z-scores on seeded draws; each fails by chance with a probability below 1e-5.
"""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from outthink.core.errors import UserError
from outthink.reason.holding import Holding
from outthink.reason.particles import sweep as sweep_module
from outthink.reason.particles.gibbs import _Ladder, particle_gibbs, tempered_particle_gibbs
from outthink.reason.particles.islands import key_of
from outthink.reason.particles.sweep import Particle, Plan, sweep
from outthink.reason.particles.target import Verified
from outthink.reason.segment import Segmenter
from outthink.reason.solve import think
from particle_world import PROMPT, Judge, lines, model, question, tilted, z_scores

ASKED, JUDGE = question(), Judge(spread=3.0)
EVERY, ADAPTIVE = Plan(Segmenter.of("newline"), floor=1.0), Plan(Segmenter.of("newline"), floor=0.7)


def law_of_lines(power=1.0):
    """(text, finish) to its exact share of the target; and the normalising constant."""
    law = {}
    for text, log_prob, finish in lines(ASKED):
        steps = [text[: i + 1] for i, c in enumerate(text) if c == "\n"]
        if all(JUDGE.of(part) > -math.inf for part in [*steps, text]):
            law[text, finish] = math.exp(log_prob + power * JUDGE.of(text))
    total = math.fsum(law.values())
    return {line: weight / total for line, weight in law.items()}, total


async def retained(root, lm, text, finish):
    """The particles of a given line."""
    ends = [i + 1 for i, c in enumerate(text) if c == "\n"]
    cuts = sorted({0, *ends, len(text)})
    pieces = [list(lm.encode(text[a:b])) for a, b in pairwise(cuts)] or [[]]
    if finish == "stop":
        if text.endswith("\n"):
            pieces.append([])
        pieces[-1].append(lm.end)
    line, tip = [], root
    for i, piece in enumerate(pieces):
        tip = await tip.feed(piece)
        whole, value = i == len(pieces) - 1, JUDGE.of(tip.full_text)
        line.append(Particle(tip, 0.0, value, 0.0, 0, whole, before=line[-1] if line else Particle(root)))
    return line


async def gibbs_draws(plan, num, size=4):
    """Of conditional sweeps around exact draws from the target: the weights of their lines, less 1 for the line drawn,
    so that each line's is 0 on average; and 1 / Z of each.
    """
    law, _ = law_of_lines(plan.power)
    names = sorted(law)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(names), size=num, p=[law[name] for name in names])
    lm = model()
    root = await lm.root(PROMPT)
    target, drawn, inverse = Verified(ASKED, JUDGE, lm.ledger), [], []
    for number, index in enumerate(chosen):
        line = await retained(root, lm, *names[index])
        async with Holding() as held:
            one = await sweep(ASKED, root, target, plan, size, held, key_of(7, number), retained=line, keep_lines=True)
        shares = Counter({names[index]: -1.0})
        for p in one.normalised.particles:
            ended = bool(p.tip.tokens) and p.tip.tokens[-1] == lm.end
            shares[p.tip.full_text, "stop" if ended else "length"] += math.exp(p.log_weight) / size
        drawn.append(shares)
        inverse.append(math.exp(-one.log_z))
    return law, drawn, np.array(inverse)


def p_value(law, drawn, num_bins=12):
    """Of the counts of the likeliest lines, and of all others together."""
    top = sorted(law, key=lambda line: -law[line])[:num_bins]
    counts = Counter(line if line in top else None for line in drawn)
    expected = [law[line] for line in top]
    expected = np.array([*expected, 1 - math.fsum(expected)]) * len(drawn)
    return chisquare([counts[line] for line in [*top, None]], expected).pvalue


async def alarm(plan):
    """How far lines' shares and the mean of 1 / Z are from what they must be, in standard errors."""
    law, drawn, inverse = await gibbs_draws(plan, 600)
    top = sorted(law, key=lambda line: -law[line])[:8]
    table = np.array([[shares[line] for line in top] for shares in drawn])
    expected = [0.0] * len(top) + [1 / law_of_lines()[1]]
    return np.abs(z_scores(np.c_[table, inverse], np.array(expected))).max()


@pytest.mark.parametrize("plan", [EVERY, ADAPTIVE], ids=["every step", "by effective size"])
async def test_a_conditional_sweep_leaves_the_target_invariant(plan):
    """And the mean of 1 / Z over such sweeps is 1 / Z exactly."""
    assert await alarm(plan) < 4.5


async def test_copying_the_heaviest_instead_of_drawing_is_caught(monkeypatch):
    def greedy(log_weights, uniforms):
        return np.array([0, *[int(np.argmax(log_weights))] * (len(uniforms) - 1)])

    monkeypatch.setattr(sweep_module, "conditional_multinomial", greedy)
    assert await alarm(EVERY) > 6


async def test_a_retained_line_whose_weight_is_forgotten_is_caught(monkeypatch):
    honest = sweep_module._Mover._weigh

    def forgets(self, after, before):
        after = honest(self, after, before)
        given = after.tip.finish is None
        return sweep_module.replace(after, log_weight=before.log_weight) if given else after

    monkeypatch.setattr(sweep_module._Mover, "_weigh", forgets)
    assert await alarm(EVERY) > 6


async def test_swaps_leave_the_product_law_invariant():
    """Exact pairs from powers 1 and 0.3, swapped once: the first of each pair still follows the target."""
    (cold, _), (warm, _) = law_of_lines(1.0), law_of_lines(0.3)
    plans = [EVERY, Plan(EVERY.segmenter, power=0.3)]
    rng, names = np.random.default_rng(1), sorted(cold)
    lm = model()
    root = await lm.root(PROMPT)
    pairs = [rng.choice(len(names), size=4000, p=[law[name] for name in names]) for law in (cold, warm)]
    particles = {}
    for name in names:
        particles[name] = [Particle(root, 0.0, JUDGE.of(name[0]), whole=True)]
    first, moved = [], 0
    for number, (a, b) in enumerate(zip(*pairs, strict=True)):
        ladder = _Ladder(ASKED, root, Verified(ASKED, JUDGE, lm.ledger), plans, key_of(3, number))
        swapped = ladder._swap([particles[names[a]], particles[names[b]]], 0)
        took = swapped[0] is particles[names[b]]
        moved += took and a != b
        first.append(names[b] if took else names[a])
    assert moved > 500
    assert p_value(cold, first) > 1e-5
    assert p_value(cold, [names[b] for b in pairs[1]]) < 1e-5, "the check cannot tell the two laws apart"


@pytest.mark.parametrize("method", [particle_gibbs, tempered_particle_gibbs], ids=lambda m: m.name)
async def test_by_default_the_evidence_has_an_error(method):
    found = await think(ASKED, model(), method, Judge())
    assert found.evidence_runs > 1
    assert found.log_evidence_se is not None and found.log_evidence_se > 0


@pytest.mark.parametrize("method", [particle_gibbs, tempered_particle_gibbs], ids=lambda m: m.name)
async def test_answer_shares_and_evidence_of_the_strategy(method):
    judge = Judge()
    exact = tilted(ASKED, judge.of)
    total = sum(exact.values())
    found = await think(ASKED, model(), method, judge, n=3000, chains=60, sweeps=5)
    assert found.evidence_runs == 60
    assert abs(found.log_evidence - math.log(total)) < 4.5 * found.log_evidence_se
    for answer, weight in exact.items():
        if answer is not None:
            assert found.weights[answer] == pytest.approx(weight / total, abs=0.05)


async def test_sweeps_pay_for_new_lines_only():
    """A chain of five sweeps of four draws 4 + 4 x 3 lines: the retained one is never drawn again."""
    lm = model()
    found = await think(ASKED, lm, particle_gibbs, Judge(veto=False), n=20, chains=1, sweeps=5, floor=0.0)
    ends = [t for t in found.tree.walk() if t.tokens and not t.children]
    assert len(ends) <= 16
    assert lm.ledger.bill.decoded == sum(t.tokens for t in found.tree.walk())


async def test_mistakes_are_user_errors():
    for method, options, message in (
        (particle_gibbs, {"chains": 0}, "chains=0"),
        (particle_gibbs, {"sweeps": 0}, "sweeps=0"),
        (tempered_particle_gibbs, {"powers": (0.5, 1.0)}, "must begin with 1"),
        (tempered_particle_gibbs, {"powers": (1.0, 2.0)}, "between 0 and 1"),
    ):
        with pytest.raises(UserError, match=message):
            await think(ASKED, model(), method, Judge(), **options)
