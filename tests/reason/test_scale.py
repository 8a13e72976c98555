"""Under scaled options a budget, and no default of a strategy's own, is what ends its work."""

from pathlib import Path

import pytest

from outthink.core.budget import Budget
from outthink.core.errors import UnknownNameError, UserError
from outthink.core.registry import method
from outthink.reason import STRATEGIES
from outthink.reason.scale import ALL, SCALES, Room, scale_of, strategies_named
from outthink.reason.solve import think
from search_world import Scores, StepWorld

BUDGET = 900
# Strategies that stop by themselves, and so may leave most of a budget unspent.
STOP_EARLY = {"greedy", "step-greedy", "adaptive-vote", "sample-until-verified", "sample-while-worthwhile", "revise"}
# Those that ask for more than the world of steps has: hints in its prompts, or the end of a line before its last step.
ELSEWHERE = {"hint-marginalization", "budget-forcing", "token-beam", "diverse-beam", "subthought-vote"}
BINDING = sorted(SCALES.keys() - STOP_EARLY - ELSEWHERE)


def test_every_mapped_strategy_is_there_and_takes_its_options():
    assert SCALES.keys() <= set(STRATEGIES.names())
    for one in STRATEGIES:
        for room in (Room(1, 50.0), Room(500, 61.3), Room(8000, 100.0), Room(1e6, 20.0)):
            one.check_options(scale_of(one.name).options(room))


def test_a_strategy_from_outside_gets_as_many_as_the_budget_could_pay(monkeypatch):
    async def run(question, lm, verifier, ledger, *, n=4):
        """Not run."""

    made = method("mine", family="x", summary="s", guarantee="heuristic", promise="p", paper="q")(run)
    monkeypatch.setattr(type(STRATEGIES), "get", lambda self, name: made)
    assert scale_of("mine").options(Room(800, 50.0)) == {"n": 400}
    assert scale_of("mine").verifier


def test_what_a_strategy_was_told_in_brackets_stays():
    assert scale_of("mcts(n=8)").options(Room(800, 50.0)) == {}
    assert strategies_named(["then(majority-vote, mcts)", "mcts(n=8)"]) == ["then(majority-vote, mcts)", "mcts(n=8)"]


async def spent(name, options, budget=BUDGET, sharpness=0.3):
    """Tokens of ``budget`` that a strategy spends in a world of 1,728 lines of seven tokens."""
    world = StepWorld(letters="abcdefghijkl", depth=3, seed=3, sharpness=sharpness)
    lm = world.lm(Budget(tokens=budget))
    judge = Scores(lambda path: -0.1 * len(path)) if scale_of(name).verifier else None
    posterior = await think(world.question, lm, name, judge, **options)
    assert posterior.cost.tokens <= budget
    return posterior.cost.tokens


@pytest.mark.parametrize("name", BINDING)
@pytest.mark.parametrize("sharpness", [0.3, 4.0])
async def test_the_budget_binds(name, sharpness):
    """Nearly half of it is spent at least: the searches that plan their width keep some back for longer lines. Under a
    law as sharp as that of a model that is sure, most draws are the same, and trees are soon complete.
    """
    assert await spent(name, scale_of(name).options(Room(BUDGET, 9.0)), sharpness=sharpness) >= 0.45 * BUDGET


@pytest.mark.parametrize("name", ["a-star", "ab-mcts", "levin", "mcts"])
@pytest.mark.parametrize("budget", [BUDGET, 4000])
async def test_searches_that_can_go_on_do_until_little_is_left(name, budget):
    """Also where the tree of all that is at all likely has 30 lines, and the budget pays five hundred."""
    assert await spent(name, scale_of(name).options(Room(budget, 9.0)), budget, 4.0) >= 0.95 * budget


@pytest.mark.parametrize("name", ["majority-vote", "mcts", "levin", "particle-filter"])
async def test_defaults_of_the_strategies_would_leave_it_unspent(name):
    assert await spent(name, {}, 4 * BUDGET) < BUDGET


def test_names_and_short_names():
    assert strategies_named(["vote", "greedy", "majority-vote"]) == ["majority-vote", "greedy"]
    assert set(strategies_named([ALL])) == {m.name for m in STRATEGIES if not m.models}
    with pytest.raises(UnknownNameError):
        strategies_named(["vot"])
    with pytest.raises(UserError, match="Name a strategy"):
        strategies_named([])


def test_rooms():
    assert (Room(1000, 100.0).lines, Room(1000, 100.0).many) == (10, 500)
    assert (Room(5, 100.0).lines, Room(5, 100.0).many) == (1, 2)


def test_the_guide_says_how_each_strategy_spends_a_budget():
    guide = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    for name, scale in SCALES.items():
        asks = "yes" if scale.verifier else "no"
        assert any(f"`{name}`" in row and row.endswith(f"| {scale.how} | {asks} |") for row in rows), name
