"""Verifiers that compare lines with each other: asked once for all of them, and by nobody who judges as lines come."""

import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason.solve import think
from outthink.verify.compose import Product, Staged
from outthink.verify.judge import PairwiseJudge
from outthink.verify.likelihood import Likelihood
from search_world import record_branches

ASKED = Question("ab", lambda text: text[-1] if len(text) >= 2 else None)
ASK = "{problem}c{first}c{second}c"


def toy(budget=None):
    return ToyLM(random_law(3, 4), "abc", Ledger(budget), Sampling(seed=1), context=40)


class Ranks:
    """Scores lines by their place among those it is asked about; charges ten tokens a line."""

    name, sound, partial, relative = "ranks", False, False, True

    def __init__(self):
        self.calls = []

    def require(self, question):
        pass

    async def score(self, question, branches, ledger):
        self.calls.append([branch.full_text for branch in branches])
        ledger.for_verifier().charge(prefilled=10 * len(branches))
        order = sorted(branch.full_text for branch in branches)
        return [-1.0 - order.index(branch.full_text) for branch in branches]

    def accepts(self, score):
        return False


@pytest.mark.parametrize("strategy", ["best-of-n", "weighted-vote"])
@pytest.mark.parametrize("budget", [None, Budget(tokens=400), Budget(flops=400)])
async def test_what_compares_lines_is_asked_once_for_all_of_them(strategy, budget, monkeypatch):
    opened = record_branches(monkeypatch)
    judge = Ranks()
    found = await think(ASKED, toy(budget), strategy, judge, n=20)
    [lines] = judge.calls
    assert len(lines) == found.attempts > 3
    assert found.log_evidence is None
    assert all(branch.closed for branch in opened)
    if budget is None:
        assert len(lines) == 20
    else:
        assert found.cost.tokens <= 400, "what is kept for the judge is enough here"
        assert found.cost.verifier_tokens == 10 * len(lines)
    values = {t.value for t in found.tree.walk() if t.value is not None}
    assert len(values) == len(set(lines))


@pytest.mark.parametrize("tokens", range(3, 40, 4))
async def test_a_small_budget_still_buys_the_first_line(tokens):
    alone = await think(ASKED, toy(Budget(tokens=tokens)), "majority-vote", n=1)
    judged = await think(ASKED, toy(Budget(tokens=tokens)), "best-of-n", Ranks())
    assert judged.cost.tokens - judged.cost.verifier_tokens <= tokens
    assert alone.best is None or alone.best in {t.answer for t in judged.tree.walk()}


@pytest.mark.parametrize("strategy", ["best-of-n", "weighted-vote"])
async def test_others_are_still_asked_as_lines_come(strategy):
    class Counts(Likelihood):
        calls = 0

        async def score(self, question, branches, ledger):
            self.calls += 1
            return await super().score(question, branches, ledger)

    judge = Counts()
    found = await think(ASKED, toy(Budget(tokens=200)), strategy, judge)
    assert judge.calls > 1
    assert found.cost.tokens > 150


def pairwise():
    return PairwiseJudge(toy(), 4, ASK, "a", "b")


@pytest.mark.parametrize(
    "strategy", ["mcts", "rebase", "a-star", "step-beam", "particle-filter", "token-smc", "evolve", "revise"]
)
@pytest.mark.parametrize(
    "judge",
    [pairwise, lambda: Product(Likelihood(), pairwise()), lambda: Staged(Likelihood(), pairwise())],
    ids=["itself", "a part", "of whole lines"],
)
async def test_searches_refuse_it_before_anything_is_spent(strategy, judge):
    lm = toy(Budget(tokens=200))
    with pytest.raises(CapabilityError, match="best-of-n or weighted-vote"):
        await think(ASKED, lm, strategy, judge())
    assert lm.ledger.bill.tokens == 0


async def test_the_pairwise_judge_sees_all_lines_of_a_budget(monkeypatch):
    asked = []

    class Watched(PairwiseJudge):
        async def score(self, question, branches, ledger):
            asked.append(len(branches))
            return await super().score(question, branches, ledger)

    lm = toy(Budget(tokens=600))
    found = await think(ASKED, lm, "best-of-n", Watched(lm, 4, ASK, "a", "b"))
    assert asked == [found.attempts]
    assert found.attempts > 3
    assert found.cost.verifier_tokens > found.cost.tokens / 3
    assert not math.isnan(found.confidence)
