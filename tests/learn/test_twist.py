"""A learned twist against the enumerated one: it comes near, tightens the bounds, and biases nothing.

Statistical checks fail by chance with a probability below 1e-5.
"""

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from outthink.core.budget import Budget
from outthink.core.errors import CheckpointError, SamplingError, UnknownNameError, UserError
from outthink.learn.twist import learn_twist
from outthink.posterior.named import open_potential
from outthink.posterior.potential import Prefix
from outthink.posterior.twist import LinearTwist, features, fit_twist
from outthink.reason.particles.bounds import evidence_bounds
from outthink.reason.particles.guide import NoTwist, Reading, guided
from outthink.reason.particles.sweep import Plan
from outthink.reason.particles.target import Weighted
from outthink.reason.particles.tokens import Twisted, twisted_smc
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

ASKED, TOKEN, WHOLE = question(), Plan(Segmenter.of("tokens:1"), floor=1.0), LONGEST + 1
VOCABULARY = range(len(ALPHABET) + 1)


class Vowels:
    """Every letter a costs three nats, and a line of fewer than three letters is ruled out."""

    def log_potential(self, prefix):
        if not prefix.whole:
            return 0.0
        return -3.0 * prefix.text.count("a") if len(prefix.text) > 2 else -math.inf

    def of(self, text):
        return self.log_potential(Prefix((), text, True))


GOAL = Vowels()
TRUTH = tilted(ASKED, GOAL.of, steps="never")
LOG_Z = math.log(sum(TRUTH.values()))


@functools.cache
def worth(line=()):
    """log E[exp(potential) | prefix], by recursion over all that can follow."""
    lm = model()
    if (line and line[-1] == lm.end) or len(line) >= LONGEST:
        return GOAL.of(lm.spell(line))
    law = lm.log_probs(lm.encode(PROMPT) + line)
    return float(np.logaddexp.reduce([law[t] + worth((*line, t)) for t in VOCABULARY]))


@functools.cache
def prefixes():
    """Every unfinished prefix but the empty one, and its probability."""
    found, stack, lm = [], [((), 0.0)], model()
    while stack:
        line, log_prob = stack.pop()
        if (line and line[-1] == lm.end) or len(line) >= LONGEST:
            continue
        if line:
            found.append((line, math.exp(log_prob)))
        law = lm.log_probs(lm.encode(PROMPT) + line)
        stack += [((*line, t), log_prob + float(law[t])) for t in VOCABULARY]
    return found


def error(twist):
    """Root mean square error of exp(twist), over prefixes by their probability, as a share of the true spread."""
    mass = np.array([p for _, p in prefixes()])
    true = np.exp([worth(line) for line, _ in prefixes()])
    told = np.exp([twist.log_twist(Prefix(line, "")) for line, _ in prefixes()])
    spread = math.sqrt(np.average((true - np.average(true, weights=mass)) ** 2, weights=mass))
    return math.sqrt(np.average((told - true) ** 2, weights=mass)) / spread


@functools.cache
def learned_of():
    return {}


async def learned(num=2000, order=WHOLE, seed=7):
    """The twist learned from ``num`` lines, once for each."""
    known = learned_of()
    if (num, order) not in known:
        lm = model(seed=seed)
        known[num, order] = await learn_twist(ASKED, lm, GOAL, lm.ledger, lines=num, order=order)
    return known[num, order]


class Mislabelled(LinearTwist):
    """Learned from the same lines, with the labels of others: what a learner that mixes them up would find."""

    @classmethod
    async def like(cls, num=2000):
        drawn = [(tuple(model().encode(text)), GOAL.of(text)) for text, _, _ in lines(ASKED)]
        rng = np.random.default_rng(0)
        shares = np.exp([log_prob for _, log_prob, _ in lines(ASKED)])
        chosen = rng.choice(len(drawn), num, p=shares / shares.sum())
        shuffled = rng.permutation(chosen)
        return fit_twist([(drawn[i][0], drawn[j][1]) for i, j in zip(chosen, shuffled, strict=True)], WHOLE).twist


# ---- learning -------------------------------------------------------------------------------------------------------


async def test_more_lines_bring_a_table_of_all_prefixes_to_the_best_twist():
    few, many = [error((await learned(num)).twist) for num in (100, 2000)]
    assert many < few / 2
    assert many < 0.2


async def test_labels_of_other_lines_are_caught():
    assert error(await Mislabelled.like()) > 0.8


async def test_few_features_come_as_near_as_they_can():
    """The last letter alone tells something, and less than everything."""
    assert error((await learned()).twist) < error((await learned(order=1)).twist) < 0.9


async def test_what_is_told_of_a_fit():
    fit = await learned()
    assert fit.lines == 2000
    assert abs(math.exp(fit.log_mean) - math.exp(LOG_Z)) < 4.5 / math.sqrt(2000)  # potentials lie in [0, 1]
    assert fit.heldout_loss < fit.constant_loss - 0.02


def test_one_feature_is_the_mean():
    """Order 0 and lines of one token: what is learned is the mean by hand, however it is scaled."""
    for shift in (0.0, -3.0, 5.0):
        weights = [0.0, -1.0, -math.inf, -2.0, -0.5] * 8
        twist = fit_twist([((1,), weight + shift) for weight in weights], 0).twist
        mean = math.log(np.mean(np.exp(weights))) + shift
        assert twist.log_twist(Prefix((1,), "")) == pytest.approx(mean, abs=0.02)


def test_a_long_enough_suffix_is_the_prefix_itself():
    keys = [set(features(line, 9)) for line in ((1,), (2, 1), (2, 2, 1), (2, 2), ())]
    assert all(own - set().union(*keys[:i], *keys[i + 1 :]) for i, own in enumerate(keys) if i < 4)


async def test_biases_are_how_much_better_each_token_is():
    twist = (await learned(order=2)).twist
    for line in [(), (0,), (1, 0), (0, 0, 1)]:
        biases, worths = twist.log_biases(Prefix(line, "")), [twist.log_twist(Prefix((*line, t), "")) for t in range(4)]
        assert sorted(biases) == list(VOCABULARY)
        assert [biases[t] - biases[0] for t in VOCABULARY] == pytest.approx([w - worths[0] for w in worths])
        unseen = twist.log_twist(Prefix((*line, 99), "")) - worths[0]
        assert -biases[0] == pytest.approx(unseen)
    assert replace(twist, propose=False).log_biases(Prefix((), "")) == {}


# ---- exactness ------------------------------------------------------------------------------------------------------


async def skew(twist, **broken):
    """The largest z-score of the estimated evidence: of all lines, and of those of the answers that are not rare."""
    lm = model()
    target = Twisted(Weighted(GOAL), twist, lm.sampling)
    vars(target).update(broken)
    table = by_answer(ASKED, await islands(ASKED, lm, target, TOKEN, 250, 4), [None, "b", "a"])
    table[:, 2] = table.sum(axis=1)
    return np.abs(z_scores(table, np.array([TRUTH[None], TRUTH["b"], math.exp(LOG_Z)]))).max()


async def test_what_was_learned_biases_nothing():
    assert await skew((await learned(100)).twist) < 4.5
    assert await skew(await Mislabelled.like(200)) < 4.5


async def test_a_proposal_that_is_not_weighed_is_caught():
    assert await skew((await learned()).twist, corrected=False) > 6


async def bounds(twist, n=3, runs=60):
    lm = model()
    return await evidence_bounds(ASKED, lm, GOAL, lm.ledger, twist=twist, n=n, runs=runs, most_draws=4000, floor=1.0)


async def test_bounds_hold_the_truth_and_are_tighter_than_without_a_twist():
    plain, twisted = await bounds(NoTwist(), n=8), await bounds((await learned()).twist, n=8)
    assert (plain.exact, twisted.exact) == (60, 60)
    for found in (plain, twisted):
        assert found.lower == -math.inf or found.lower - 4.5 * found.lower_se < LOG_Z
        assert found.upper + 4.5 * found.upper_se > LOG_Z
    assert twisted.lower - 4.5 * twisted.lower_se > plain.lower or twisted.lower > plain.lower
    assert twisted.gap < plain.gap / 3


# ---- a verifier as the twist ----------------------------------------------------------------------------------------


class Counting(Judge):
    """A judge of steps that notes what it is asked of."""

    def __init__(self):
        super().__init__(2.0, veto=False)
        self.asked = []

    async def score(self, question, branches, ledger):
        self.asked += [branch.full_text for branch in branches]
        return await super().score(question, branches, ledger)


@pytest.mark.parametrize("steps", ["newline", "tokens:1"])
async def test_a_verifier_of_steps_is_read_where_they_end_and_biases_nothing(steps):
    judge, lm = Counting(), model()
    target = Twisted(Weighted(GOAL), Reading(ASKED, judge, lm.ledger), lm.sampling)
    plan = Plan(Segmenter.of(steps), floor=1.0)
    table = by_answer(ASKED, await islands(ASKED, lm, target, plan, 250, 4), list(TRUTH))
    assert np.abs(z_scores(table, np.array(list(TRUTH.values())))).max() < 4.5
    assert all(text == "" or text.endswith("\n") for text in judge.asked)
    assert any(text.endswith("\n") for text in judge.asked)


async def test_a_reading_stands_until_the_next():
    judge, lm = Counting(), model(longest=10)
    reading, root = Reading(ASKED, judge, lm.ledger), await lm.root(PROMPT)
    branches = [root]
    for text in ("a", "b", "\n", "b", "a\n", "a"):
        branches.append(await branches[-1].feed(text))
    expected = ["", "", "", "ab\n", "ab\n", "ab\nba\n", "ab\nba\n"]
    assert await reading.log_twists(branches) == [judge.of(text) for text in expected]
    assert judge.asked == ["", "ab\n", "ab\nba\n"]
    assert lm.ledger.bill.verifier_calls == 3
    assert dict(reading.log_biases(branches[-1])) == {}


async def test_the_verifier_is_the_potential_and_another_the_twist():
    """By name and by itself: exact answers as the potential, a judge of steps as the twist."""
    right = sum(math.exp(log_prob) for text, log_prob, finish in lines(ASKED) if answer(text, finish) == "b")
    estimates = []
    for seed in range(100):
        found = await think(ASKED, model(seed=seed), twisted_smc, "exact", n=16, twist=Judge(2.0, veto=False))
        estimates.append(math.exp(found.log_evidence))
        assert set(found.weights) == {"b"} or found.log_evidence == -math.inf
    error = np.std(estimates, ddof=1) / 10
    assert abs(np.mean(estimates) - right) < 4.5 * error


def answer(text, finish):
    return ASKED.parse(text if finish == "stop" else text[: text.rfind("\n") + 1])


# ---- names and mistakes ---------------------------------------------------------------------------------------------


async def test_a_twist_is_written_and_read_again(tmp_path):
    twist = (await learned(100)).twist
    file = tmp_path / "twist.json"
    file.write_text(json.dumps(twist.to_json()))
    again = LinearTwist.load(file)
    assert again.log_twist(Prefix((0, 1), "")) == pytest.approx(twist.log_twist(Prefix((0, 1), "")), abs=1e-4)
    assert again.to_json() == LinearTwist.load(file).to_json()
    options = {"n": 8, "potential": "avoids:aa"}
    told, direct = [
        await think(ASKED, model(), "twisted-smc", None, twist=given, **options) for given in (str(file), again)
    ]
    assert told.log_evidence == direct.log_evidence


async def test_named_potentials():
    def told(spec, text, whole):
        return open_potential(spec).log_potential(Prefix((7,) * len(text), text, whole))

    assert [told("matches:b+$", text, True) for text in ("abb", "aba")] == [0.0, -math.inf]
    assert told("matches:b+$", "aba", False) == 0.0
    assert [told("avoids:bb", text, False) for text in ("aba", "abba")] == [0.0, -math.inf]
    assert told("brief:0.5", "abc", False) == -1.5
    share = sum(math.exp(log_prob) for text, log_prob, _ in lines(ASKED) if "bb" not in text)
    found = [
        math.exp((await think(ASKED, model(seed=s), "token-smc", potential="avoids:bb", n=32)).log_evidence)
        for s in range(40)
    ]
    assert abs(np.mean(found) - share) < 4.5 * np.std(found, ddof=1) / math.sqrt(40)


async def test_mistakes_are_user_errors(tmp_path):
    lm, empty = model(), tmp_path / "none.json"
    empty.write_text("[]")
    for spec, error, message in (
        ("smaller:2", UnknownNameError, "Unknown potential"),
        ("matches:(", UserError, "no regular expression"),
        ("matches", UserError, "after a colon"),
        ("brief:-1", UserError, "in nats"),
        ("brief:much", UserError, "in nats"),
    ):
        with pytest.raises(error, match=message):
            await think(ASKED, lm, "twisted-smc", potential=spec)
    for twist, error, message in (
        (str(tmp_path / "missing.json"), CheckpointError, "outthink twist"),
        (str(empty), CheckpointError, "is no twist"),
        ("exact", UserError, "judges finished lines alone"),
        ("oracle-of-delphi", UnknownNameError, "Unknown verifier"),
    ):
        with pytest.raises(error, match=message):
            await think(ASKED, lm, "twisted-smc", potential=GOAL, twist=twist)
    with pytest.raises(SamplingError, match="temperature 1"):
        await learn_twist(ASKED, model(temperature=0.5), GOAL, lm.ledger)
    with pytest.raises(UserError, match="has any weight"):
        await learn_twist(ASKED, lm, "matches:never", lm.ledger, lines=20)
    with pytest.raises(UserError, match="order=-1"):
        await learn_twist(ASKED, model(), GOAL, lm.ledger, lines=20, order=-1)
    with pytest.raises(UserError, match="lines=0"):
        await learn_twist(ASKED, model(), GOAL, lm.ledger, lines=0)


async def test_a_twist_of_other_tokens_is_refused():
    lm = model()
    lm.tokenizer = type("Tokens", (), {"fingerprint": "these"})()
    with pytest.raises(UserError, match="another tokenizer"):
        async with guided(LinearTwist({}, 1, tokenizer="those"), ASKED, lm, lm.ledger):
            pass


async def test_learning_stays_within_its_budget():
    lm = model(Budget(tokens=1000))
    fit = await learn_twist(ASKED, lm, "brief:1", lm.ledger, lines=10**6)
    assert lm.ledger.bill.tokens <= 1000
    assert fit.lines in (128, 192)  # batches that were cut do not count: what is whole of them is short
    with pytest.raises(UserError, match="too few"):
        await learn_twist(ASKED, lm, "brief:1", lm.ledger)
