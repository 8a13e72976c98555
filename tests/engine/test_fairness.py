"""Many pieces of work on one engine: waits counted in steps, whole trees that give way and come back the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import outthink
from engine.test_independence import SAMPLINGS, Runner
from engine.world import World, make_engine
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BudgetError
from outthink.core.rng import mix
from outthink.core.sampling import Until
from outthink.engine.sequence import Extend
from outthink.kv import PagedCache
from outthink.models.transformer import Transformer
from outthink.scheduling import Gang, Limits, Scheduler

SMALL_TOKENS = 12
HARD, SMALL = Until(80, ignore_eos=True), Until(SMALL_TOKENS, ignore_eos=True)


class FirstCome(Scheduler):
    """Knows no gangs: whoever came first is served first, and the youngest gives up pages."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.one = Gang()

    def add(self, sequence) -> None:
        sequence.gang = self.one
        super().add(sequence)


def small_solve(world: World, number: int) -> Iterator[None]:
    """Two generations of three branches, the second below the first; yields while it waits."""
    node, ledger = world.root([4, 5, 6, number, 7, 8, 9, 1, 2, 3]), Ledger()
    for _ in range(2):
        task = world.extend(node, 3, SMALL, ledger=ledger)
        while task in world.live:
            yield
        node = next(n for n in world.nodes if n is not node and n.tokens[: len(node.tokens)] == node.tokens)


def steps_of_small_solves(kind: type[Scheduler], num_pages: int) -> list[int]:
    """How many steps each of 8 small solves takes that come while a problem with 64 live branches is solved.

    0 for those that take more than twice `BOUND`.
    """
    world = World(make_engine(num_pages, 4, Limits(72, 24), scheduler=kind))
    hard = world.extend(world.root([0, 1, 2, 3, 0, 1, 2]), 64, HARD)
    for _ in range(8):
        world.step()
    began = world.engine.scheduler.num_steps
    solves = [small_solve(world, number) for number in range(8)]
    took = [0] * len(solves)
    while not all(took) and world.engine.scheduler.num_steps < began + 2 * BOUND:
        for number, solve in enumerate(solves):
            if not took[number] and next(solve, "over") == "over":
                took[number] = world.engine.scheduler.num_steps - began
        world.step()
    assert hard in world.live or kind is FirstCome, "the hard problem was meant to go on all the while"
    for task in list(world.live):
        world.cancel(task)
    world.finish()
    return took


# 9 pieces of work share 24 rows, so each has at least 2, and three branches need 2 steps for a token; the prompt, and
# the first token of a generation, take up to 4 steps more.
BOUND = 2 * (2 * SMALL_TOKENS + 4)


@pytest.mark.parametrize("num_pages", [2000, 120])
def test_small_solves_finish_in_few_steps_beside_a_problem_of_64_branches(num_pages: int) -> None:
    took = steps_of_small_solves(Scheduler, num_pages)
    assert all(took) and max(took) <= BOUND


@pytest.mark.parametrize("num_pages", [2000, 120])
def test_first_come_first_served_lets_them_wait(num_pages: int) -> None:
    took = steps_of_small_solves(FirstCome, num_pages)
    assert not all(took) or max(took) > BOUND


def test_a_large_family_holds_up_no_other_birth() -> None:
    world = World(make_engine(4000, 4, Limits(16, 4)))
    large, small = world.root([0, 1, 2]), world.root([3, 4])
    for node in (large, small):
        world.extend(node, 1, Until(1))
    world.run()
    world.extend(large, 40, Until(2, ignore_eos=True))
    world.step()
    one = world.extend(small, 1, Until(1))
    world.step()
    assert one not in world.live and len(world.live) == 1
    world.finish()


def two_trees(priorities: tuple[int, int]) -> tuple[World, list[Extend]]:
    """Two trees that fit alone and not together, each of four branches of 40 tokens; World checks what they draw."""
    world = World(make_engine(60, 4, Limits(64, 64)))
    ledgers = [Ledger(priority=priority) for priority in priorities]
    roots = [world.root([0, 1, 2, 3, number]) for number in range(2)]
    tasks = [world.extend(root, 4, Until(44, ignore_eos=True), ledger=ledger)
             for root, ledger in zip(roots, ledgers, strict=True)]  # fmt: skip
    return world, tasks


@pytest.mark.parametrize(("priorities", "last"), [((0, 0), 1), ((1, 0), 0), ((0, 1), 1), ((-3, -2), 1)])
def test_of_two_trees_that_do_not_fit_together_the_later_or_lower_gives_way_whole(
    priorities: tuple[int, int], last: int
) -> None:
    world, tasks = two_trees(priorities)
    scheduler = world.engine.scheduler
    while not scheduler.num_suspensions:
        world.step()
    gone, kept = tasks[last], tasks[1 - last]
    assert gone.gang.suspended and not kept.gang.suspended
    assert all(child.lease is None for child in gone.children), "it keeps nothing"
    assert all(child.lease is not None for child in kept.children), "the other keeps all"
    while kept in world.live:
        assert gone in world.live
        world.step()
    world.run()
    assert scheduler.num_suspensions == 1, "it comes back when there is room for all of it, and so only once"
    world.finish()


def test_a_tree_that_was_sent_back_as_a_whole_draws_the_same_tokens(tiny_transformer: Transformer) -> None:
    prompts = [b"the first of two trees", b"and one that comes later to the same few pages"]

    def start(runner: Runner, number: int) -> Extend:
        return runner.start(list(prompts[number]), [mix(number, child) for child in range(4)], SAMPLINGS[number])

    def alone(number: int) -> list[tuple[int, ...]]:
        runner = Runner(tiny_transformer)
        return runner.finish(start(runner, number))

    runner = Runner(tiny_transformer, num_pages=13, page_size=8)
    tasks = [start(runner, number) for number in range(2)]
    assert runner.finish(*tasks) == [*alone(0), *alone(1)]
    assert runner.engine.scheduler.num_suspensions > 0, "it was meant to run out of pages"


def test_a_deadline_ends_work_in_one_step_with_what_there_is() -> None:
    now = [0.0]
    world = World(make_engine(400, 4, Limits(16, 4)))
    ledger = Ledger(Budget(seconds=5.0), clock=lambda: now[0])
    task = world.extend(world.root([0, 1, 2]), 6, HARD, ledger=ledger)
    other = world.extend(world.root([5, 6]), 1, HARD)
    for _ in range(10):
        world.step()
    now[0] = 5.0
    world.step()
    assert task not in world.live and other in world.live
    assert {child.generation.finish for child in task.children if child.generation} == {"budget"}
    assert any(len(child.tokens) > 3 for child in task.children)
    queued = [s for s in (*world.engine.scheduler.running, *world.engine.scheduler.waiting) if s.gang is task.gang]
    assert not queued, "nothing of it is computed any more"
    world.finish()


REQUESTS = [("a", 30), ("b", 30), ("b", 50), ("a", 50), ("a", 50), ("b", 20), ("a", 41), ("b", 50)]


class SharesWithAll(PagedCache):
    """Lets every tenant find what any computed."""

    def lease(self, tokens, namespace="", most=None):
        return super().lease(tokens, "", most)


def cached_positions(kind: type[PagedCache], tenants: str) -> dict[int, int]:
    """Prompt positions found in the cache by each of `REQUESTS` of these tenants, all with one beginning."""
    world, cached = World(make_engine(400, 4, cache=kind)), {}
    for number, (tenant, length) in enumerate(REQUESTS):
        if tenant in tenants:
            ledger = Ledger()
            world.extend(world.root([t % 10 for t in range(length)], tenant), 1, Until(1), ledger=ledger)
            world.run()
            world.close(world.nodes[-1])
            world.close(world.nodes[0])
            cached[number] = ledger.bill.cached
            assert ledger.bill.cached + ledger.bill.prefilled == length
    world.finish()
    return cached


def test_what_a_tenant_finds_in_the_cache_tells_nothing_of_the_others() -> None:
    both = cached_positions(PagedCache, "ab")
    for tenant in "ab":
        alone = cached_positions(PagedCache, tenant)
        assert {number: both[number] for number in alone} == alone
        assert sum(alone.values()) > 0, "it finds its own"


def test_a_cache_shared_between_tenants_is_noticed() -> None:
    assert cached_positions(SharesWithAll, "ab")[1] != cached_positions(SharesWithAll, "b")[1]


@pytest.mark.parametrize("priority", [17, -17, 1.0, "high", None])
def test_a_priority_that_is_none_is_refused(priority: object) -> None:
    with pytest.raises(BudgetError, match="priority"):
        Ledger(priority=priority)  # type: ignore[arg-type]


def test_a_solve_competes_with_its_priority(tiny_model) -> None:
    seen = set()

    def look(lm) -> None:
        add, scheduler = lm.engine.scheduler.add, lm.engine.scheduler
        scheduler.add = lambda sequence: (seen.add(sequence.gang.priority), add(sequence))

    outthink.solve(
        "What is 1 + 1?", model=tiny_model, strategy="greedy", budget=Budget(tokens=40), priority=3, on_start=look
    )
    assert seen == {3}
