"""Work in flight: the order in which it is taken back, what waits for what, and what is left behind."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.budget import Budget, Ledger
from outthink.reason.search.flight import LAUNCH, Flight
from outthink.reason.search.purse import Purse


def drawing(name, ticks, pace, shown=True):
    """Work that draws ``ticks`` tokens, giving way ``pace(i)`` times before each."""

    async def work(on_token):
        for i in range(ticks):
            for _ in range(pace(i)):
                await asyncio.sleep(0)
            if shown:
                on_token(0, "x")
        return name, ticks

    return work


async def take_all(ticks, paces, most, shown=True):
    """Names in the order taken back, with at most ``most`` in flight."""
    flight, order, waiting = Flight(), [], list(enumerate(zip(ticks, paces, strict=True)))
    while waiting or len(flight):
        while waiting and len(flight) < most:
            name, (count, pace) = waiting.pop(0)
            flight.launch(drawing(name, count, pace, shown))
        order.append(await flight.next())
    return order


def by_tokens(ticks, most):
    """The order by the clock that counts tokens, computed without any concurrency."""
    now, flying, order, waiting = 0, [], [], list(enumerate(ticks))
    while waiting or flying:
        while waiting and len(flying) < most:
            name, count = waiting.pop(0)
            flying.append((now + LAUNCH + count, name))
        first = min(flying)
        flying.remove(first)
        now, name = first
        order.append(name)
    return order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=14), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_work_comes_back_by_its_tokens_whatever_the_pace(ticks, most, seed, shown):
    rng = random.Random(seed)
    tables = [[rng.randrange(4) for _ in range(10)] for _ in ticks]
    paces = [table.__getitem__ for table in tables]
    assert asyncio.run(take_all(ticks, paces, most, shown)) == by_tokens(ticks, most)


async def test_nothing_waits_for_work_that_has_drawn_more_already():
    """One piece never ends; once it has drawn more than the others took, they come back without it."""
    flight, forever = Flight(), asyncio.Event()

    async def endless(on_token):
        for _ in range(50):
            on_token(0, "x")
            await asyncio.sleep(0)
        await forever.wait()
        return "endless", 51

    flight.launch(endless)
    for name in range(5):
        flight.launch(drawing(name, 4 + name, lambda i: 1))
    got = [await asyncio.wait_for(flight.next(), 5) for _ in range(5)]
    assert got == [0, 1, 2, 3, 4]
    assert len(flight) == 1
    await flight.cancel()
    assert len(asyncio.all_tasks()) == 1


async def test_tokens_shown_from_another_thread_wake_the_wait():
    flight, go = Flight(), asyncio.Event()

    async def threaded(on_token):
        def show():
            for _ in range(20):
                on_token(0, "x")

        await asyncio.to_thread(show)
        await go.wait()
        return "long", 20

    flight.launch(threaded)
    flight.launch(drawing("short", 3, lambda i: 0))
    assert await asyncio.wait_for(flight.next(), 5) == "short"
    go.set()
    assert await asyncio.wait_for(flight.next(), 5) == "long"


async def test_errors_reach_whoever_takes_the_next():
    flight = Flight()

    async def broken(on_token):
        raise ValueError("broken")

    flight.launch(drawing(0, 9, lambda i: 3))
    flight.launch(broken)
    with pytest.raises(ValueError, match="broken"):
        await flight.next()
    await flight.cancel()
    assert len(asyncio.all_tasks()) == 1


async def test_cancelling_the_wait_leaves_the_work_to_be_cancelled():
    flight = Flight()
    flight.launch(drawing(0, 10**6, lambda i: 1))
    waiting = asyncio.create_task(flight.next())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(flight) == 1
    await flight.cancel()
    assert len(asyncio.all_tasks()) == 1


# ---- the purse -------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 400),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40), st.floats(0, 1), st.floats(0, 3)), max_size=30),
)
def test_grants_never_exceed_what_there_is(tokens, requests):
    """However much of each grant is spent, on drawing or judging, and while others are in flight, the ledger is never
    overdrawn.
    """
    ledger = Ledger(Budget(tokens=tokens))
    purse, flying = Purse(ledger), []

    def land():
        grant, drawn, judging = flying.pop(0)
        ledger.charge(decoded=drawn + judging)
        purse.settle(grant, drawn, judging, drawn // grant.num_children, alone=not flying)

    for num_children, most, share, judged in requests:
        if purse.has_room(hold=False) and (purse.opened or not flying):
            grant = purse.take(num_children, most, sharing=3, hold=False)
            assert 1 <= grant.num_children <= num_children
            assert 1 <= grant.each <= most
            assert grant.num_children * grant.each <= grant.reserved
            drawn = int(share * grant.num_children * grant.each)
            flying.append((grant, drawn, int(min(judged * drawn, grant.reserved - drawn))))
            assert sum(each[0].reserved for each in flying) <= ledger.tokens_left
        else:
            assert purse.dry or flying
        if flying and (share < 0.5 or not purse.opened):
            land()
    while flying:
        land()
    assert ledger.bill.tokens <= tokens
    if purse.opened:
        assert purse.free == ledger.tokens_left


def test_room_is_left_for_judging_what_is_drawn():
    ledger = Ledger(Budget(tokens=1_000))
    purse = Purse(ledger)
    ledger.charge(prefilled=10, decoded=60)
    purse.open(20, judging=30)
    grant = purse.take(4, 1000, sharing=1, hold=False)
    assert grant.each == int(grant.reserved / 4 / 2.5)
    purse.settle(grant, 40, 160, 10, alone=False)
    grant = purse.take(4, 1000, sharing=1, hold=False)
    assert grant.each == int(grant.reserved / 4 / 5)  # judging takes more than was known


def test_without_a_limit_everything_is_granted():
    purse = Purse(Ledger())
    assert purse.has_room(hold=True)
    grant = purse.take(64, 1000, sharing=8, hold=True)
    assert (grant.num_children, grant.each) == (64, 1000)


def test_enough_is_held_back_for_one_line_until_there_is_an_answer():
    ledger = Ledger(Budget(tokens=100))
    purse = Purse(ledger)
    while purse.has_room(hold=True):
        grant = purse.take(4, 1000, sharing=1, hold=True)
        ledger.charge(decoded=int(grant.reserved))
        purse.settle(grant, int(grant.reserved), 0, int(grant.each), alone=True)
    assert purse.dry and ledger.bill.tokens == 75
    assert purse.has_room(hold=False) and not purse.dry


def test_near_the_end_fewer_children_are_granted_rather_than_cut_ones():
    ledger = Ledger(Budget(tokens=100))
    purse = Purse(ledger)
    ledger.charge(decoded=20)
    purse.settle(purse.take(2, 1000, sharing=1, hold=False), 20, 0, 10, alone=True)
    grant = purse.take(16, 1000, sharing=4, hold=False)
    assert grant.each >= 12 and grant.num_children == 6
