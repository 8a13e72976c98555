"""Admission: no more than so many at once, tenants in turn, an end to the queue, and no place lost."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.serve.failures import ApiError
from outthink.serve.gate import Gate


async def hold(gate, tenant, log, release, priority=0):
    async with gate.admitted(tenant, priority):
        log.append(tenant)
        await release.wait()


async def test_the_tenant_with_the_least_goes_next():
    gate, log, release = Gate(2, 100), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, tenant, log, release)) for tenant in "aaaaab"]
    await asyncio.sleep(0)
    assert log == ["a", "a"] and gate.num_waiting == 4
    tasks[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log == ["a", "a", "b"]  # before the a's that came first
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.num_running == gate.num_waiting == 0


async def test_with_one_place_tenants_take_turns():
    gate, log = Gate(1, 100), []

    async def visit(tenant):
        async with gate.admitted(tenant):
            log.append(tenant)
            await asyncio.sleep(0)

    await asyncio.gather(*map(visit, "aaaabbc"))
    assert log == ["a", "a", "b", "c", "a", "b", "a"]


async def test_no_tenant_takes_all_places_where_each_has_a_most():
    gate, log, release = Gate(3, max_each=2), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, tenant, log, release)) for tenant in "aaaabc"]
    await asyncio.sleep(0)
    assert log == ["a", "a", "b"] and gate.num_running == 3 and gate.num_waiting == 3
    tasks[4].cancel()  # b's place is for c, and for no third a
    await asyncio.gather(tasks[4], return_exceptions=True)
    await asyncio.sleep(0)
    assert log == ["a", "a", "b", "c"]
    tasks[5].cancel()
    await asyncio.gather(tasks[5], return_exceptions=True)
    assert gate.num_running == 2 and gate.num_waiting == 2, "a place stays free for whoever comes"
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == ["a", "a", "b", "c", "a", "a"] and gate.num_running == gate.num_waiting == 0


async def test_a_full_queue_is_said_with_when_to_come_again():
    gate, release = Gate(1, 1), asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, "a", [], release)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await hold(gate, "a", [], release)
    assert refused.value.status == 429 and refused.value.headers["Retry-After"]
    release.set()
    await asyncio.gather(*tasks)


async def test_of_one_tenant_the_lowest_number_goes_first_then_the_oldest():
    gate, log, release = Gate(1, 9), [], asyncio.Event()
    first = asyncio.create_task(hold(gate, "a", [], release))
    await asyncio.sleep(0)

    async def visit(name, priority):
        async with gate.admitted("a", priority):
            log.append(name)

    tasks = [asyncio.create_task(visit(*each)) for each in [("low", 5), ("x", 0), ("y", 0), ("high", -3)]]
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(first, *tasks)
    assert log == ["high", "x", "y", "low"]


async def test_who_fills_the_queue_gives_way_to_others():
    gate, release = Gate(1, 3), asyncio.Event()
    greedy = [asyncio.create_task(hold(gate, "a", [], release)) for _ in range(4)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(hold(gate, "b", [], release)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in greedy] == [False, False, False, True], "the last of whom has most"
    assert [task.done() for task in others] == [False, True, True], "one each of a second place is no more than fair"
    assert gate.num_waiting == 3 and gate.num_refused == 3
    release.set()
    done = await asyncio.gather(*greedy, *others, return_exceptions=True)
    assert [getattr(each, "status", None) for each in done] == [None, None, None, 429, None, 429, 429]


async def test_when_to_come_again_follows_from_how_fast_requests_go_out():
    now = 100.0
    gate = Gate(1, 4, clock=lambda: now)
    assert gate.retry_after == 1
    for _ in range(30):
        async with gate.admitted("a"):
            now += 7.0
    assert gate.retry_after == 7
    release = asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, "a", [], release)) for _ in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await tasks[-1]
    assert refused.value.headers["Retry-After"] == "35"
    now += 20.0  # nobody goes out: it takes longer than it seemed
    assert gate.retry_after == 100
    now = 1e9
    assert gate.retry_after == 600
    release.set()
    await asyncio.gather(*tasks[:-1])


async def test_draining_waits_for_who_is_in_and_refuses_who_waits():
    gate, release = Gate(1, 5), asyncio.Event()
    inside = asyncio.create_task(hold(gate, "a", [], release))
    waiting = asyncio.create_task(hold(gate, "a", [], release))
    await asyncio.sleep(0)
    drained = asyncio.create_task(gate.drain())
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await waiting
    assert refused.value.status == 503 and not drained.done()
    release.set()
    await asyncio.gather(inside, drained)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "leave", "cancel"])), max_size=40))
def test_no_place_is_lost_or_given_twice(steps):
    async def run():
        gate, most, inside = Gate(3, 8), 0, {}

        async def visit(key, gone):
            async with gate.admitted(key[0]):
                inside[key] = gone
                try:
                    await gone.wait()
                finally:
                    del inside[key]

        tasks = {}
        for number, (tenant, act) in enumerate(steps):
            if act == "enter":
                gone = asyncio.Event()
                tasks[tenant, number] = (asyncio.create_task(visit((tenant, number), gone)), gone)
            else:
                own = [key for key in tasks if key[0] == tenant and not tasks[key][0].done()]
                if own and act == "leave":
                    tasks[own[0]][1].set()
                elif own:
                    tasks[own[-1]][0].cancel()
            for _ in range(4):
                await asyncio.sleep(0)
            most = max(most, len(inside))
            assert gate.num_running == len(inside) <= 3
            assert not (gate.num_waiting and gate.num_running < 3)
        for _, gone in tasks.values():
            gone.set()
        await asyncio.gather(*(task for task, _ in tasks.values()), return_exceptions=True)
        assert gate.num_running == gate.num_waiting == 0

    asyncio.run(run())
