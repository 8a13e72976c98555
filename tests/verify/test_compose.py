"""Verifiers made of verifiers, against the formulas; and confidence against the model's own law."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM, random_law
from outthink.reason.solve import TOP_LOGPROBS, think
from outthink.verify.checked import Checked
from outthink.verify.compose import Mixture, Product, Staged, Threshold, for_steps
from outthink.verify.confidence import Entropy, TokenConfidence
from outthink.verify.likelihood import Likelihood

QUESTION = Question("a", lambda text: text or None)


class Fixed:
    """Gives out its scores in order, and accepts 0."""

    partial = True

    def __init__(self, *scores, name="fixed", sound=False):
        self.scores, self.name, self.sound, self.required, self.asked = list(scores), name, sound, 0, []

    def require(self, question):
        self.required += 1

    async def score(self, question, branches, ledger):
        ledger.charge(verifier_calls=len(branches))
        self.asked += branches
        return self.scores[: len(branches)]

    def accepts(self, score):
        return score == 0.0


async def score(verifier, n):
    ledger = Ledger()
    return await verifier.score(QUESTION, [object() for _ in range(n)], ledger), ledger.bill.verifier_calls


LOGS = st.one_of(st.just(-math.inf), st.floats(-50, 3))


@given(st.lists(st.tuples(LOGS, LOGS), min_size=1, max_size=6), st.floats(0.1, 3), st.floats(0.1, 3))
async def test_products_and_mixtures_are_what_their_formulas_say(pairs, p, q):
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    got, calls = await score(Product(Fixed(*left), Fixed(*right), powers=(p, q)), len(pairs))
    assert got == pytest.approx([p * a + q * b for a, b in pairs])
    assert calls == 2 * len(pairs)
    got, _ = await score(Mixture(Fixed(*left), Fixed(*right), shares=(p, q)), len(pairs))
    expected = [(p * np.exp(a) + q * np.exp(b)) / (p + q) for a, b in pairs]
    assert np.exp(got) == pytest.approx(expected)


async def test_products_and_mixtures_with_equal_parts():
    left, right = Fixed(-1.0, -math.inf, name="x"), Fixed(-2.0, 0.0, name="y")
    assert (await score(Product(left, right), 2))[0] == [-3.0, -math.inf]
    mixed = (await score(Mixture(left, right), 2))[0]
    assert mixed == pytest.approx([math.log((math.exp(-1) + math.exp(-2)) / 2), math.log(0.5)])
    assert Product(left, right).name == "x*y" and Mixture(left, right).name == "x+y"
    Product(left, Mixture(right, right)).require(QUESTION)
    assert (left.required, right.required) == (1, 2)


def test_who_accepts_what():
    sure, unsure = Fixed(sound=True), Fixed()
    assert Product(sure, unsure).accepts(0.0) and Product(sure, unsure).sound
    assert not Product(sure, unsure).accepts(-0.1)
    assert not Product(sure, TokenConfidence()).accepts(0.0)
    assert not Mixture(sure, sure).accepts(0.0)
    assert Threshold(unsure, accept=-0.5).accepts(-0.4)
    assert not Threshold(unsure, accept=-0.5).accepts(-0.6)
    assert Threshold(unsure, -3.0).accepts(0.0)
    assert not Threshold(unsure, -3.0, hard=True).accepts(0.0)
    assert not Threshold(unsure, accept=-math.inf).accepts(-math.inf)


async def test_thresholds_rule_out_what_is_below():
    part = Fixed(-3.0, -1.0, -2.0, -math.inf)
    assert (await score(Threshold(part, -2.0), 4))[0] == [-math.inf, -1.0, -2.0, -math.inf]
    assert (await score(Threshold(part, -2.0, hard=True), 4))[0] == [-math.inf, 0.0, 0.0, -math.inf]


class Line:
    def __init__(self, text, ended=False):
        self.full_text, self.ended = text, ended


async def test_staged_asks_each_about_its_own_lines_in_order():
    process, outcome = Fixed(-1.0, -2.0), Fixed(0.0, -math.inf)
    lines = [Line("x"), Line("x\n"), Line("y"), Line("z", ended=True)]
    staged = Staged(process, outcome)
    assert await staged.score(QUESTION, lines, Ledger()) == [-1.0, 0.0, -2.0, -math.inf]
    assert process.asked == [lines[0], lines[2]] and outcome.asked == [lines[1], lines[3]]
    assert staged.accepts(0.0) and not staged.accepts(-1.0)
    staged.require(QUESTION)
    assert process.required == outcome.required == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Product(),
        lambda: Product(Fixed(), powers=(1.0, 2.0)),
        lambda: Product(Fixed(), powers=(0.0,)),
        lambda: Mixture(Fixed(), shares=(-1.0,)),
        lambda: Mixture(Fixed(), shares=(math.inf,)),
        lambda: Threshold(Fixed(), math.nan),
        lambda: Threshold(Fixed(), 0.0, accept=-1.0),
    ],
)
def test_mistakes_are_user_errors(make):
    with pytest.raises(UserError):
        make()


class Whole(Fixed):
    partial = False


@pytest.mark.parametrize("checked", [False, True])
async def test_parts_that_can_judge_steps_do_so_before_all_of_them_judge_the_line(checked):
    """A product or mixture with an exact checker guides by its other parts, with their own powers and shares."""
    on_the_way, finished = [Line("x")], [Line("y", ended=True)]

    async def scored(whole):
        judge = for_steps(Checked(whole) if checked else whole)
        assert judge.partial
        [before], [after] = [await judge.score(QUESTION, lines, Ledger()) for lines in (on_the_way, finished)]
        return before, after

    one, two, exact = Fixed(-1.0), Fixed(-3.0), Whole(-5.0)
    assert await scored(Product(one, exact, powers=(2.0, 1.0))) == (-2.0, -7.0)
    assert await scored(Product(exact, Product(two, exact), one)) == (-4.0, -14.0)
    before, after = await scored(Mixture(one, two, exact, shares=(1, 3, 4)))
    assert before == pytest.approx(math.log(0.25 * math.exp(-1) + 0.75 * math.exp(-3)))
    assert after == pytest.approx(math.log(0.125 * math.exp(-1) + 0.375 * math.exp(-3) + 0.5 * math.exp(-5)))


def test_where_no_part_can_judge_steps_the_likelihood_does():
    for whole in (Whole(), Product(Whole(), Mixture(Whole())), Threshold(Whole()), Checked(Whole())):
        judge = for_steps(whole)
        assert isinstance(judge, Staged) and isinstance(judge.process, Likelihood)


class Broken(Fixed):
    """Raises once the others are at work."""

    async def score(self, question, branches, ledger):
        await asyncio.sleep(0)
        raise CapabilityError("it broke")


class Slow(Fixed):
    """Never comes to an end by itself, and notes how it was ended."""

    ended = None

    async def score(self, question, branches, ledger):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = "ended"
        return []


@pytest.mark.parametrize("kind", [Product, Mixture])
async def test_no_part_is_left_at_work_when_another_raises(kind):
    slow = Slow()
    with pytest.raises(CapabilityError, match="it broke"):
        await kind(slow, Broken()).score(QUESTION, [Line("x")], Ledger())
    assert slow.ended == "ended"


# ---- confidence ------------------------------------------------------------------------------------------------------


async def lines_of(top, n=5, steps=2):
    """Lines of ``steps`` branches of two tokens each, of a toy model with 4 tokens, and their token prefixes."""
    lm = ToyLM(random_law(2, 4), "abc", sampling=Sampling(top_logprobs=top, seed=1))
    root = await lm.root("ab")
    lines = await root.extend(n, Until(2, ignore_eos=True))
    for _ in range(steps - 1):
        lines = [(await line.extend(1, Until(2, ignore_eos=True)))[0] for line in lines]
    return lm, lines


def laws(lm, line):
    """The law before each token of a line."""
    tokens = [*line.parent.tokens, *line.tokens]
    return [lm.log_probs((0, 1, *tokens[:i])) for i in range(len(tokens))]


async def test_confidence_is_the_formula_over_the_whole_line():
    for top in (2, 4):
        lm, lines = await lines_of(top)
        ledger = Ledger()
        got = await TokenConfidence().score(QUESTION, lines, ledger)
        each = [[-np.sort(law)[::-1][:top].mean() for law in laws(lm, line)] for line in lines]
        assert got == pytest.approx([-math.log(top) / np.mean(values) for values in each], abs=1e-5)
        assert ledger.bill.verifier_calls == len(lines)
        got = await TokenConfidence(window=2).score(QUESTION, lines, Ledger())
        least = [min(np.mean(values[i : i + 2]) for i in range(len(values) - 1)) for values in each]
        assert got == pytest.approx([-math.log(top) / value for value in least], abs=1e-5)


async def test_confidence_guides_a_search():
    """Every node has a value of its own, the surest the highest: -1 where all tokens are equally likely."""
    asked = Question("ab", lambda text: text[-1:] or None)
    lm = ToyLM(random_law(3, 4), "abc", Ledger(), Sampling(seed=2, top_logprobs=4), context=9)
    found = await think(asked, lm, "mcts", "confidence", n=12, width=3, steps="tokens:2")
    scores = [thought.value for thought in found.tree.walk() if thought.tokens and thought.value is not None]
    assert len(scores) > 5
    assert all(-1 <= score < 0 for score in scores)
    assert len(set(scores)) > 5
    flat = ToyLM(lambda prefix: np.zeros(4), "abc", Ledger(), Sampling(top_logprobs=4), context=9)
    lines = await (await flat.root("ab")).extend(3, Until(4, ignore_eos=True))
    assert await TokenConfidence().score(QUESTION, lines, Ledger()) == pytest.approx([-1.0] * 3)


async def test_of_one_likely_token_there_is_no_confidence():
    _, lines = await lines_of(1)
    with pytest.raises(CapabilityError, match="top_logprobs=5"):
        await TokenConfidence().score(QUESTION, lines, Ledger())


async def test_entropy_is_exact_where_the_whole_law_is_known():
    lm, lines = await lines_of(4)
    got = await Entropy().score(QUESTION, lines, Ledger())
    exact = [np.mean([(np.exp(law) * law).sum() for law in laws(lm, line)]) for line in lines]
    assert got == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("verifier", [TokenConfidence(), Entropy()])
async def test_without_log_probabilities_they_say_what_to_ask_for(verifier):
    _, lines = await lines_of(0)
    with pytest.raises(CapabilityError, match="top_logprobs=5"):
        await verifier.score(QUESTION, lines, Ledger())
    assert not verifier.accepts(0.0)
    verifier.require(QUESTION)


@pytest.mark.parametrize(("name", "kind"), [("confidence", TokenConfidence), ("entropy", Entropy)])
async def test_by_name_they_have_likely_tokens_noted_themselves(name, kind):
    """As when they are asked for by hand, with as many tokens noted; the lines are the same."""
    asked = Question("ab", lambda text: text[-1:] or None)

    def toy(top):
        return ToyLM(random_law(3, 4), "abc", Ledger(), Sampling(seed=2, top_logprobs=top), context=9)

    by_name = await think(asked, toy(0), "best-of-n", name, n=6)
    by_hand = await think(asked, toy(TOP_LOGPROBS), "best-of-n", kind(), n=6)
    assert [(c.text, c.log_weight) for c in by_name.candidates] == [(c.text, c.log_weight) for c in by_hand.candidates]
    fewer = await think(asked, toy(2), "best-of-n", name, n=6)
    assert [c.log_weight for c in fewer.candidates] != [c.log_weight for c in by_hand.candidates]
