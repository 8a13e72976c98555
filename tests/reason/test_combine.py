"""Strategies made of strategies: what each member gets to spend, when the next begins, and how results are mixed."""

import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, EngineError, UserError
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.combine import bind, ensemble, mixture, retry, split, then, within
from outthink.reason.solve import think

VOTE = STRATEGIES.get("majority-vote")
ASKED = Question("ab", lambda text: text[-1] if len(text) >= 2 else None, lambda answer: answer == "b")


def toy(budget=None, seed=0):
    return ToyLM(random_law(3, 4), "abc", Ledger(budget), Sampling(seed=seed), context=8)


class Spy:
    """A method that answers as told, spends what it is told to, and notes what it was given."""

    def __init__(self, *answers, spends=0):
        self.answers, self.spends, self.seen = list(answers), spends, []

    @property
    def method(self):
        @method("spy", family="test", summary="", guarantee="heuristic", promise="", paper="none")
        async def run(question, lm, verifier, ledger):
            assert lm.ledger is ledger
            self.seen.append((ledger.tokens_left, lm.sampling.seed))
            ledger.charge(decoded=self.spends)
            answer, confidence = self.answers[min(len(self.seen), len(self.answers)) - 1]
            if answer is None:
                return Posterior(attempts=1)
            rest = math.log1p(-confidence) if confidence < 1 else -math.inf
            return Posterior((Candidate(answer, math.log(confidence)),), rest, attempts=1)

        return run


@pytest.mark.parametrize(("confidence", "best", "asked"), [(0.9, "quick", 0), (0.5, "slow", 1)])
async def test_then_asks_the_second_only_where_the_first_is_unsure(confidence, best, asked):
    quick, slow = Spy(("quick", confidence), spends=20), Spy(("slow", 0.7))
    found = await think(ASKED, toy(Budget(tokens=100)), then(quick.method, slow.method, below=0.6, share=0.3))
    assert found.best == best
    assert quick.seen == [(30, 0)]
    assert len(slow.seen) == asked
    assert found.attempts == 1 + asked
    if asked:
        assert slow.seen[0][0] == 80, "what the first left over is the second's"
        assert slow.seen[0][1] != 0, "the second would draw the first's lines again"


async def test_then_keeps_the_first_answer_where_the_second_has_none():
    found = await think(ASKED, toy(), then(Spy(("weak", 0.2)).method, Spy((None, 0)).method))
    assert found.best == "weak"
    assert found.confidence == pytest.approx(0.2)


async def test_retry_goes_on_until_it_is_good_on_fresh_random_numbers():
    spy = Spy((None, 0), ("b", 0.3), ("c", 0.9), spends=10)
    found = await think(ASKED, toy(Budget(tokens=90)), retry(spy.method, 3))
    assert found.best == "b"
    assert found.attempts == 2
    assert [left for left, _ in spy.seen] == [30, 40]
    assert len({seed for _, seed in spy.seen}) == 2
    assert spy.seen[0][1] == 0, "alone, the first try is the method itself"
    picky = await think(ASKED, toy(), retry(Spy(("a", 0.4), ("b", 0.6), ("c", 0.5)).method, 3, good=lambda p: False))
    assert picky.best == "b"


async def test_retry_stops_with_the_budget():
    spy = Spy((None, 0), spends=1000)
    await think(ASKED, toy(Budget(tokens=90)), retry(spy.method, 5))
    assert len(spy.seen) == 1


async def test_ensemble_shares_the_budget_and_mixes():
    one, two = Spy(("a", 1.0)), Spy(("b", 0.5))
    found = await think(ASKED, toy(Budget(tokens=100)), ensemble(one.method, two.method, weights=(3, 1)))
    assert found.weights == pytest.approx({"a": 0.75, "b": 0.125})
    assert [spy.seen[0][0] for spy in (one, two)] == [50, 50]
    assert one.seen[0][1] != two.seen[0][1]


async def test_members_of_an_ensemble_are_what_they_are_alone():
    """The mixture of two votes, the first on the given seed and both on the lines of their own."""
    member = bind(VOTE, n=20)
    alone = await think(ASKED, toy(), member)
    both = await think(ASKED, toy(), ensemble(member, member))
    assert both.attempts == 40
    one = await think(ASKED, toy(), ensemble(member))
    assert one.weights == pytest.approx(alone.weights)
    assert both.weights != pytest.approx(alone.weights)


async def test_split_hands_on_what_is_left():
    one, two, three = Spy(("a", 1.0), spends=10), Spy((None, 0), spends=0), Spy(("b", 1.0))
    found = await think(
        ASKED, toy(Budget(tokens=100)), split((one.method, 0.5), (two.method, 0.25), (three.method, 0.25))
    )
    assert [spy.seen[0][0] for spy in (one, two, three)] == [50, 45, 90]
    assert found.weights == pytest.approx({"a": 0.5, "b": 0.25})
    assert found.confidence == pytest.approx(0.5)


@pytest.mark.parametrize("part", [{"share": 0.4}, {"budget": Budget(tokens=40)}])
async def test_within_is_the_method_on_a_smaller_budget(part):
    lm = toy(Budget(tokens=100))
    found = await think(ASKED, lm, within(VOTE, **part))
    small = await think(ASKED, toy(Budget(tokens=40)), VOTE)
    assert lm.ledger.bill.tokens <= 40
    assert found.weights == small.weights


async def test_combinations_combine():
    deep = then(within(bind(VOTE, n=4), share=0.5), ensemble(retry(VOTE, 2), STRATEGIES.get("greedy")), below=0.9)
    lm = toy(Budget(tokens=300))
    found = await think(ASKED, lm, deep)
    assert found.best is not None
    assert lm.ledger.bill.tokens <= 300
    assert found.method == deep.name


def test_mixture_is_the_mixed_law():
    one = Posterior((Candidate("a", 700.0), Candidate("b", 700.0)), log_unassigned=-math.inf, attempts=2)
    two = Posterior((Candidate("b", -900.0),), log_unassigned=-900.0, attempts=3)
    found = mixture([one, two, Posterior(attempts=1)], [0.5, 0.25, 0.25])
    assert found.weights == pytest.approx({"b": 0.25 + 0.125, "a": 0.25})
    assert found.attempts == 6


def test_mistakes_are_user_errors():
    for make in (
        lambda: retry(VOTE, 0),
        lambda: then(VOTE, VOTE, share=1.0),
        lambda: then(VOTE, VOTE, below=0.0),
        lambda: ensemble(),
        lambda: ensemble(VOTE, weights=(1, 2)),
        lambda: split((VOTE, -1.0)),
        lambda: within(VOTE),
        lambda: within(VOTE, share=0.5, budget=Budget(tokens=3)),
        lambda: bind(VOTE, k=3),
    ):
        with pytest.raises(UserError):
            make()


class Modest(ToyLM):
    """A toy that offers whole lines with their log-probabilities, and no more."""

    offers = frozenset({"log_probs"})


TWO, UNTIL_VERIFIED = STRATEGIES.get("two-models"), STRATEGIES.get("sample-until-verified")
BEAM, SURE_VOTE = STRATEGIES.get("token-beam"), STRATEGIES.get("probability-vote")


@pytest.mark.parametrize(
    "combine",
    [
        lambda *parts: then(*parts),
        lambda *parts: ensemble(*parts),
        lambda *parts: split(*((part, 0.5) for part in parts)),
        lambda one, two: retry(within(then(one, bind(two)), share=0.5)),
    ],
    ids=["then", "ensemble", "split", "nested"],
)
async def test_what_members_need_is_asked_for_before_anything_is_spent(combine):
    assert set(combine(SURE_VOTE, BEAM).needs) == {*SURE_VOTE.needs, *BEAM.needs} != {*SURE_VOTE.needs}
    assert combine(VOTE, TWO).models == ("second",)
    assert combine(VOTE, bind(TWO, second=toy())).models == ()
    assert combine(VOTE, UNTIL_VERIFIED).accepting and not combine(VOTE, BEAM).accepting
    lm = Modest(random_law(3, 4), "abc", Ledger(Budget(tokens=200)), Sampling(), context=8)
    with pytest.raises(CapabilityError, match="does not offer"):
        await think(ASKED, lm, combine(VOTE, BEAM))
    for part, why in ((TWO, "needs another model"), (UNTIL_VERIFIED, "verifier that can accept a line")):
        with pytest.raises(CapabilityError, match=why):
            await think(ASKED, lm := toy(Budget(tokens=200)), combine(VOTE, part), "likelihood")
        assert lm.ledger.bill.tokens == 0


class Faulty(Spy):
    """Answers as told, until told to raise."""

    @property
    def method(self):
        answers = self.answers

        @method("faulty", family="test", summary="", guarantee="heuristic", promise="", paper="none")
        async def run(question, lm, verifier, ledger):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            rest = math.log1p(-answer[1])
            return Posterior((Candidate(answer[0], math.log(answer[1])),) if answer[0] else (), rest, attempts=1)

        return run


async def test_what_is_found_is_not_lost_with_a_later_part_that_cannot_go_on():
    broken = CapabilityError("it cannot do that")
    found = await think(ASKED, toy(), then(Spy(("weak", 0.2)).method, Faulty(broken).method))
    assert (found.best, "it cannot do that" in found.stopped) == ("weak", True)
    picky = retry(Faulty(("weak", 0.2), ("less", 0.1), broken).method, 5, good=lambda found: found.confidence > 0.9)
    found = await think(ASKED, toy(), picky)
    assert (found.best, found.attempts, "it cannot do that" in found.stopped) == ("weak", 2, True)


async def test_without_an_answer_and_of_other_faults_the_error_is_told():
    for error in (CapabilityError("no"), EngineError("gone")):
        with pytest.raises(type(error)):
            await think(ASKED, toy(), then(Spy((None, 0)).method, Faulty(error).method))
        with pytest.raises(type(error)):
            await think(ASKED, toy(), retry(Faulty((None, 0.5), error).method, 3))
    with pytest.raises(EngineError):
        await think(ASKED, toy(), then(Spy(("weak", 0.2)).method, Faulty(EngineError("gone")).method))
