"""Scores that are no log-weights are refused by the verifier's name, whatever strategy asked for them."""

import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.solve import think

ASKED = Question("ab", lambda text: text[-1] if len(text) >= 2 else None)
GUIDED = (
    "best-of-n",
    "weighted-vote",
    "step-greedy",
    "guided-beam",
    "rebase",
    "levin",
    "a-star",
    "mcts",
    "ab-mcts",
    "particle-filter",
    "particle-gibbs",
    "revise",
    "evolve",
)


class Says:
    """Scores the third line and all after it as told, and those before it as even odds."""

    name, sound, partial = "says", False, True

    def __init__(self, score):
        self._score, self._seen = score, 0

    def require(self, question):
        pass

    async def score(self, question, branches, ledger):
        if self._score is None:
            return [-1.0] * (len(branches) + 1)
        self._seen += len(branches)
        return [self._score if self._seen > 2 else -math.log(2)] * len(branches)

    def accepts(self, score):
        return False


def toy():
    return ToyLM(random_law(3, 4), "abc", Ledger(Budget(tokens=300)), Sampling(), context=9)


@pytest.mark.parametrize("score", [math.nan, math.inf, None], ids=["NaN", "+inf", "one too many"])
@pytest.mark.parametrize("strategy", GUIDED)
async def test_a_score_that_is_no_log_weight_is_refused_by_name(strategy, score):
    options = {"steps": "tokens:2"} if "steps" in STRATEGIES.get(strategy).options else {}
    with pytest.raises(UserError, match="verifier 'says'"):
        await think(ASKED, toy(), strategy, Says(score), **options)


@pytest.mark.parametrize("score", [-math.inf, -1e308, 1e308, 0.0])
@pytest.mark.parametrize("strategy", ["weighted-vote", "mcts", "particle-filter", "rebase"])
async def test_any_number_and_minus_infinity_will_do(strategy, score):
    found = await think(ASKED, toy(), strategy, Says(score))
    assert 0 <= found.confidence <= 1
