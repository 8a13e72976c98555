"""Solves and batches of several tenants: whose turn it is, what is kept of them, and who keeps the event loop."""

import asyncio
import threading
from contextlib import suppress
from itertools import product
from types import SimpleNamespace

import pytest

from outthink.core.budget import Ledger
from outthink.core.thought import Thought
from outthink.serve.failures import ApiError
from outthink.serve.jobs import Running
from outthink.serve.shares import Shares
from serve_world import Client, served, until

KEYS = ("first-key-of-two", "second-key-of-two")
PROBLEM = "compute 17 + 5"
LONG = {"problem": PROBLEM, "thinking": {"budget": 250_000}}
SHORT = {"problem": PROBLEM, "thinking": {"budget": 200}}
OVER = ("done", "failed", "cancelled")


def status(client, job):
    return client.get(f"/v1/solves/{job['id']}").json["status"]


def ended(client, **more):
    job = client.post("/v1/solves", {**SHORT, **more}).json
    until(lambda: status(client, job) in OVER)
    return job


# ---- turns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_tenants", "most"), [*product([1, 2, 3, 4], [1, 2, 5, 12])])
def test_nobody_is_kept_out_and_there_is_an_end(num_tenants, most):
    """Whoever comes in whatever order gets an equal part, and all together no more than is promised."""
    shares = Shares("pieces", most)

    def take_all(tenant):
        with suppress(ApiError):
            while True:
                with shares.adding(tenant, 1):
                    shares.add(tenant)

    for number in range(num_tenants):
        take_all(str(number))
        assert shares.held[str(number)] >= max(1, most // (number + 1))
    assert shares.held["0"] == most, "who is alone may have all of it"
    assert shares.held.total() <= sum(max(1, most // (number + 1)) for number in range(num_tenants))
    with pytest.raises(ApiError) as refused:
        shares.check("0", 7)
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "7"
    for tenant, number in list(shares.held.items()):
        for _ in range(number):
            shares.remove(tenant)
    shares.check("0", 7)
    assert not shares.held


def test_one_tenant_keeps_no_other_from_its_solves(endless):
    with served(endless, api_keys=KEYS, max_jobs=1, max_waiting=2) as one:
        other = Client(one.port, KEYS[1])
        first, second, third = (one.post("/v1/solves", LONG).json for _ in range(3))
        refused = one.post("/v1/solves", LONG)
        assert refused.status == 429 and int({k.lower(): v for k, v in refused.headers.items()}["retry-after"]) >= 1
        theirs = other.post("/v1/solves", LONG)
        assert theirs.status == 202
        until(lambda: status(one, first) == "running")
        one.post(f"/v1/solves/{first['id']}/cancel", {})
        until(lambda: status(one, second) == "running")
        one.post(f"/v1/solves/{second['id']}/cancel", {})
        until(lambda: status(other, theirs.json) == "running")
        assert status(one, third) == "queued", "it came before theirs, and is of whom two went in"
        for client, job in ((one, third), (other, theirs.json)):
            assert client.send("DELETE", f"/v1/solves/{job['id']}").json["status"] == "cancelled"


def test_what_is_urgent_goes_first(endless):
    with served(endless, max_jobs=1) as client:
        first, later, urgent = (client.post("/v1/solves", {**LONG, "priority": p}).json for p in (0, 5, 1))
        until(lambda: status(client, first) == "running")
        client.post(f"/v1/solves/{first['id']}/cancel", {})
        until(lambda: status(client, urgent) == "running")
        assert status(client, later) == "queued"
        for job in (later, urgent):
            client.send("DELETE", f"/v1/solves/{job['id']}")


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_a_solve_that_is_over_can_be_forgotten(model, tmp_path):
    with served(model, api_keys=KEYS, database=f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        secret = f"{PROBLEM} for nobody else"
        job = ended(client, problem=secret)
        before = client.get(f"/v1/solves/{job['id']}").json
        assert client.post(f"/v1/solves/{job['id']}/cancel", {}).json == before, "stopping what is over changes nothing"
        assert Client(client.port, KEYS[1]).send("DELETE", f"/v1/solves/{job['id']}").status == 404
        assert client.send("DELETE", f"/v1/solves/{job['id']}").json == {**before, "deleted": True}
        assert client.get(f"/v1/solves/{job['id']}").status == 404
        assert client.send("DELETE", f"/v1/solves/{job['id']}").status == 404
        assert client.get("/v1/solves").json["data"] == []
        with client.state.jobs.store.database.connections.connect() as connection:
            assert not connection.exec_driver_sql("SELECT * FROM solves").all()


def test_of_solves_that_are_over_the_last_are_kept(model):
    with served(model, api_keys=KEYS) as client:
        other = Client(client.port, KEYS[1])
        theirs = ended(other)
        client.state.jobs.store.kept = 2
        jobs = [ended(client, seed=seed) for seed in range(4)]
        assert [job["id"] for job in client.get("/v1/solves").json["data"]] == [jobs[3]["id"], jobs[2]["id"]]
        assert client.get(f"/v1/solves/{jobs[0]['id']}").status == 404
        assert status(other, theirs) in OVER


# ---- the event loop ------------------------------------------------------------------------------------------------


def on_a_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_no_tree_is_written_on_the_event_loop(waiting, monkeypatch):
    real, where = Thought.to_json, []

    def to_json(thought):
        where.append(on_a_loop())
        return real(thought)

    monkeypatch.setattr(Thought, "to_json", to_json)
    job = waiting.post("/v1/solves", LONG).json
    until(lambda: status(waiting, job) == "running")
    until(lambda: len(waiting.get(f"/v1/solves/{job['id']}?tree=true").json.get("tree", {"nodes": ()})["nodes"]) > 1)
    following = threading.Thread(target=waiting.get, args=(f"/v1/solves/{job['id']}/events",))
    following.start()
    seen = len(where)
    until(lambda: len(where) > seen)
    waiting.post(f"/v1/solves/{job['id']}/cancel", {})
    following.join(60)
    assert not following.is_alive() and not any(where)


async def test_however_many_watch_a_search_is_told_of_once_in_a_while(monkeypatch):
    told = []
    monkeypatch.setattr(Thought, "to_json", lambda thought: told.append(thought) or {"nodes": []})
    lm = SimpleNamespace(tree=Thought("x"), ledger=Ledger())
    running = Running("me", asyncio.create_task(asyncio.sleep(0)), lm)  # type: ignore[arg-type]
    found = await asyncio.gather(*(running.grown() for _ in range(50)))
    assert len(told) == 1 and all(each is found[0] for each in found)
    running._next = 0.0
    assert await running.grown() is not found[0] and len(told) == 2
