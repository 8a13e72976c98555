"""Admission: no more than so many at once, tenants in turn, an end to the queue, and no place lost."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.serve.failures import ApiError
from outthink.serve.gate import Gate


async def hold(gate, tenant, log, release):
    async with gate.admitted(tenant):
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


async def test_a_full_queue_is_said_with_when_to_come_again():
    gate, release = Gate(1, 1), asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, "a", [], release)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await hold(gate, "a", [], release)
    assert refused.value.status == 429 and refused.value.headers["Retry-After"]
    release.set()
    await asyncio.gather(*tasks)


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
