"""On the real engine with a reward model beside it: one seed, one result, whatever is cached and whoever else asks."""

import asyncio

import pytest

from outthink.core.budget import Bill, Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.model import load
from outthink.reason import STRATEGIES
from outthink.reason.scale import spending
from outthink.reason.solve import ask, think

TRIED = ("ab-mcts", "mcts", "a-star", "levin", "particle-filter", "weighted-vote", "majority-vote")


@pytest.fixture(scope="module")
def model():
    with load() as loaded:
        yield loaded


async def others(model, number: int) -> None:
    """Ask for this and that, and give some of it up, until cancelled."""
    for turn in range(10_000):
        lm = model.session(Ledger(), Sampling(seed=1_000 * number + turn))
        async with await lm.root(f"compute {turn % 90 + 3} + {number} * 3\n") as root:
            work = asyncio.ensure_future(root.extend(1 + turn % 3, Until(5 + turn % 40)))
            if turn % 3 == 0:
                await asyncio.sleep(0.002)
                work.cancel()
            for line in (await asyncio.gather(work, return_exceptions=True))[0:1]:
                for branch in line if isinstance(line, list) else []:
                    await branch.close()


async def result(model, problem: str, strategy: str, tokens: int, seed: int, beside: int):
    """What is found, what is written and what it costs, with so many ``beside``."""
    noise = [asyncio.create_task(others(model, number)) for number in range(beside)]
    await asyncio.sleep(0.01 * beside)
    try:
        budget, question = Budget(tokens=tokens), ask(problem, chat=model.chat)
        lm = model.session(Ledger().slice(budget), Sampling(seed=seed))
        options = spending(STRATEGIES.get(strategy), model, question, budget)
        found = await think(question, lm, strategy, "prm", **options)
    finally:
        for each in noise:
            each.cancel()
        await asyncio.gather(*noise, return_exceptions=True)
    weights = sorted((candidate.answer, candidate.log_weight) for candidate in found.candidates)
    written = sorted(thought.text for thought in lm.tree.walk())
    return weights, written, found.stopped, found.cost.tokens, found.cost.decoded, found.cost.verifier_calls


@pytest.mark.parametrize("strategy", TRIED)
async def test_one_seed_is_one_result(model, strategy) -> None:
    problem = f"compute {TRIED.index(strategy)} + 33 + 6 * (41 + 60)"  # which nobody asked before
    for tokens, seed in ((700, 5), (1_500, 6)):
        first = await result(model, problem, strategy, tokens, seed, 0)
        assert first[3] <= tokens
        for beside in (0, 1, 3):
            assert await result(model, problem, strategy, tokens, seed, beside) == first


async def test_budgets_that_buy_more_where_something_is_cached_are_noticed(model, monkeypatch) -> None:
    monkeypatch.setattr(Bill, "tokens", property(lambda bill: bill.prefilled + bill.decoded))
    first = await result(model, "compute 81 + 33 + 6 * (41 + 60)", "majority-vote", 300, 1, 0)
    assert await result(model, "compute 81 + 33 + 6 * (41 + 60)", "majority-vote", 300, 1, 0) != first
