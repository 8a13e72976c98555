"""The model as its own judge, against probabilities computed by hand; and what judging costs and leaves behind."""

import asyncio
import math
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, PromptError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM, random_law
from outthink.verify.judge import PairwiseJudge, SelfEvaluation, bradley_terry, tournament
from outthink.verify.odds import EVEN, log_sigmoid

QUESTION = Question("ab", lambda text: None)
WORDS = SelfEvaluation("ca", yes="ab", no="b")
ASK = "{problem}c{first}c{second}c"


def toy(budget=None, seed=0, context=64, sharpness=1.5):
    return ToyLM(random_law(seed, 4, sharpness), "abc", Ledger(budget), Sampling(seed=seed), context)


async def some_lines(lm, n=5, length=6):
    root = await lm.root("ab")
    return root, await root.extend(n, Until(length, ignore_eos=True))


def log_prob(lm, prefix, text):
    """The log-probability of ``text`` after the tokens ``prefix``."""
    tokens, total = lm.encode(text), 0.0
    for i, token in enumerate(tokens):
        total += float(lm.log_probs((*prefix, *tokens[:i]))[token])
    return total


# ---- self-evaluation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_self_evaluation_is_the_exact_probability_of_yes(seed):
    lm = toy(seed=seed)
    _, lines = await some_lines(lm)
    [longer] = await lines[0].extend(1, Until(3, ignore_eos=True))
    got = await WORDS.score(QUESTION, [*lines, longer], lm.ledger)
    for line, score in zip([*lines, longer], got, strict=True):
        prefix = (0, 1, *(line.parent.tokens if line is longer else ()), *line.tokens, 2, 0)
        yes, no = math.exp(log_prob(lm, prefix, "ab")), math.exp(log_prob(lm, prefix, "b"))
        assert score == pytest.approx(math.log(yes / (yes + no)), rel=1e-9)
    assert not WORDS.accepts(0.0)


async def test_what_judging_costs_is_the_verifiers():
    lm = toy()
    _, lines = await some_lines(lm, n=3, length=4)
    before = lm.ledger.bill
    await WORDS.score(QUESTION, lines, lm.ledger)
    after = lm.ledger.bill
    each = 2 + 1  # the question, and the first letter of the longer answer
    assert after.verifier_calls == 3
    assert after.verifier_tokens == after.tokens - before.tokens == 3 * each
    assert after.verifier_flops == after.flops - before.flops == 3 * each
    assert before.verifier_tokens == before.verifier_flops == 0


async def grown(judge):
    """The children of a branch and the recorded tree, where ``judge`` is asked about it in between."""
    lm = toy(seed=3)
    _, lines = await some_lines(lm, n=2)
    first = await lines[0].extend(2, Until(4, ignore_eos=True))
    if judge is not None:
        await judge(lines, lm.ledger)
    second = await lines[0].extend(2, Until(4, ignore_eos=True))
    return [child.tokens for child in (*first, *second)], len(list(lm.tree.walk()))


async def test_judging_changes_nothing_of_what_is_written_and_a_judge_that_does_is_noticed():
    async def in_the_way(lines, ledger):
        asked = await lines[0].feed("ca")
        await asked.score("ab")

    left_alone = await grown(None)
    assert await grown(lambda lines, ledger: WORDS.score(QUESTION, lines, ledger)) == left_alone
    assert await grown(in_the_way) != left_alone


async def test_every_budget_is_kept_and_an_unpaid_judgement_is_even():
    whole = toy()
    _, lines = await some_lines(whole, n=4)
    full = await WORDS.score(QUESTION, lines, whole.ledger)
    spent = whole.ledger.bill.tokens
    seen = set()
    for tokens in range(spent - 13, spent + 1):
        lm = toy(Budget(tokens=tokens))
        _, lines = await some_lines(lm, n=4)
        got = await WORDS.score(QUESTION, lines, lm.ledger)
        assert lm.ledger.bill.tokens <= tokens
        assert all(score in (EVEN, truth) for score, truth in zip(got, full, strict=True))
        seen.add(sum(score != EVEN for score in got))
    assert min(seen) == 0 and len(seen) > 2


async def test_a_line_that_fills_the_context_cannot_be_asked_about():
    lm = toy(context=12)
    root = await lm.root("ab")
    [line] = await root.extend(1, Until(40, ignore_eos=True))
    assert line.finish == "length"
    assert await WORDS.score(QUESTION, [line], lm.ledger) == [EVEN]
    with pytest.raises(PromptError, match="alphabet"):
        await SelfEvaluation("is it?").score(QUESTION, [root], lm.ledger)


async def test_the_engine_evaluates_itself_with_the_pages_it_has(tiny_model):
    lm = tiny_model.session(sampling=Sampling(seed=1))
    async with await lm.root("add 2 and 3") as root:
        lines = await root.extend(3, Until(20, ignore_eos=True))
        before = lm.ledger.bill.tokens
        judge = SelfEvaluation("\nright? ", "y", "n")
        got = await judge.score(QUESTION, lines, lm.ledger)
        assert lm.ledger.bill.tokens - before == lm.ledger.bill.verifier_tokens == 3 * len("\nright? ")
        for line, score in zip(lines, got, strict=True):
            fed = await line.feed("\nright? ")
            [yes], [no] = await fed.score("y"), await fed.score("n")
            assert score == pytest.approx(log_sigmoid(yes - no), abs=1e-4)
            await fed.close()
            await line.close()
    tiny_model.thread.call(lambda: None)
    engine = tiny_model.engine
    assert tiny_model.thread.call(lambda: engine.cache.num_leased(engine.scheduler.leases())) == 0


# ---- pairwise --------------------------------------------------------------------------------------------------------


def log_odds(lm, first, second):
    """What the judge must find of ``first`` against ``second``: the mean over both orders."""

    def asked(a, b):
        prefix = lm.encode(ASK.format(problem="ab", first=a, second=b))
        return log_prob(lm, prefix, "a") - log_prob(lm, prefix, "b")

    return (asked(first, second) - asked(second, first)) / 2


def best_fit(n, pairs, odds):
    """Bradley-Terry strengths by a general optimiser, of mean 0."""
    wins = 1 / (1 + np.exp(-np.array(odds)))

    def loss(x):
        margin = np.array([x[i] - x[j] for i, j in pairs])
        return float(np.sum(np.logaddexp(0, margin) - wins * margin))

    found = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-9}).x
    return found - found.mean()


@pytest.mark.parametrize("seed", range(4))
async def test_pairwise_weights_are_the_fit_to_exact_comparisons(seed):
    lm = toy(seed=seed, context=200, sharpness=1.0)
    _, lines = await some_lines(lm, n=6, length=3)
    texts = list(dict.fromkeys(line.full_text for line in lines))
    assert len(texts) > 3
    for rivals in (2, 8):
        judge = PairwiseJudge(lm, rivals, ASK, "a", "b")
        ledger, size = Ledger(), len(list(lm.tree.walk()))
        got = await judge.score(QUESTION, lines, ledger)
        pairs = tournament(len(texts), rivals)
        strengths = best_fit(len(texts), pairs, [log_odds(lm, texts[i], texts[j]) for i, j in pairs])
        assert got == pytest.approx([log_sigmoid(strengths[texts.index(line.full_text)]) for line in lines], abs=1e-5)
        assert ledger.bill.verifier_calls == 6
        assert ledger.bill.tokens == ledger.bill.verifier_tokens > 0
        assert len(list(lm.tree.walk())) == size, "judgements are recorded as thoughts"
    assert not judge.accepts(0.0)


async def test_a_judge_that_always_says_first_finds_all_lines_even():
    def law(prefix):
        return np.array([5.0, 0.0, 0.0, 0.0]) if prefix[-1] == 2 else np.zeros(4)

    lm = ToyLM(law, "abc", sampling=Sampling(seed=1), context=200)
    _, lines = await some_lines(lm, n=5, length=3)
    got = await PairwiseJudge(lm, 6, ASK, "a", "b").score(QUESTION, lines, Ledger())
    assert got == pytest.approx([EVEN] * 5)


async def test_one_line_alone_and_a_budget_that_buys_no_comparison_are_even():
    lm = toy(context=200)
    _, lines = await some_lines(lm)
    judge = PairwiseJudge(lm, 6, ASK, "a", "b")
    assert await judge.score(QUESTION, lines[:1], Ledger()) == [EVEN]
    assert await judge.score(QUESTION, lines, Ledger(Budget(tokens=0))) == [EVEN] * 5
    for tokens in (30, 60, 90):
        ledger = Ledger(Budget(tokens=tokens))
        await judge.score(QUESTION, lines, ledger)
        assert 0 < ledger.bill.tokens <= tokens


async def test_pairs_that_do_not_fit_are_left_out_and_none_that_fits_is_told():
    lm = toy(context=24)
    root = await lm.root("ab")
    short = [await root.feed("ba"), await root.feed("c")]
    long = await root.feed("abc" * 6)
    judge = PairwiseJudge(lm, 6, ASK, "a", "b")
    *_, last = await judge.score(QUESTION, [*short, long], Ledger())
    assert last == EVEN
    with pytest.raises(PromptError):
        await judge.score(QUESTION, [long, short[0]], Ledger())


def test_bradley_terry_recovers_strengths_exactly():
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        truth = rng.normal(0, 2, n)
        truth -= truth.mean()
        for pairs in (list(combinations(range(n), 2)), tournament(n, 2)):
            found = bradley_terry(n, pairs, [truth[i] - truth[j] for i, j in pairs])
            assert found == pytest.approx(truth, abs=1e-7)
    assert bradley_terry(4, [(0, 1)], [2.0]) == pytest.approx([1.0, -1.0, 0.0, 0.0])
    extreme = bradley_terry(3, [(0, 1), (1, 2), (0, 2)], [math.inf, 1e9, 800.0])
    assert extreme[0] > extreme[1] > extreme[2] and all(map(math.isfinite, extreme))


def test_in_a_tournament_all_meet_equally_many():
    for n in range(1, 15):
        for rivals in range(1, 8):
            pairs = tournament(n, rivals)
            assert len({frozenset(pair) for pair in pairs}) == len(pairs)
            met = np.bincount(np.array(pairs, dtype=int).reshape(-1), minlength=n)
            assert len(set(met.tolist())) == 1
            assert met[0] == (n - 1 if n <= rivals + 1 else 2 * math.ceil(rivals / 2))


def test_mistakes_are_told():
    with pytest.raises(UserError, match="rivals=0"):
        PairwiseJudge(toy(), 0)
    with pytest.raises(UserError, match="how many rivals"):
        PairwiseJudge.open(toy(), "many")
    with pytest.raises(UserError, match="give it one"):
        PairwiseJudge.open(None, "")
    assert PairwiseJudge.open(toy(), "4").rivals == 4
    with pytest.raises(CapabilityError, match="give the text"):
        PairwiseJudge(toy()).require(Question([1, 2], lambda text: None))


class Watched:
    """Branches that note whether they were still being scored after an error was told."""

    def __init__(self, fails):
        self.fails, self.at_work, self.finish = fails, False, None

    async def aside(self, ledger):
        self.at_work = True
        try:
            await asyncio.sleep(0)
            if self.fails:
                raise CapabilityError("it broke")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.at_work = False


async def test_no_line_is_still_asked_about_once_an_error_is_told():
    lines = [Watched(False), Watched(True), Watched(False)]
    with pytest.raises(CapabilityError, match="it broke"):
        await WORDS.score(QUESTION, lines, Ledger())  # type: ignore[arg-type]
    assert not any(line.at_work for line in lines)
