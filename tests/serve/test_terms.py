"""Priorities and deadlines from the request to the engine, a queue with an end, and tenants that learn nothing of each
other."""

import json
import math
import socket
import time

import pytest

from outthink.core.budget import Budget
from outthink.serve.failures import ApiError
from outthink.serve.terms import OnTerms, Terms
from serve_world import Client, served, until

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
KEYS = ("first-of-two", "second-of-two")


def chat(client, **more):
    return client.post("/v1/chat/completions", {"messages": CHAT, "seed": 1, **more})


def assert_free(model):
    until(lambda: not model.thread.call(model.engine.scheduler.leases))


def ask(client: Client, **body: object) -> socket.socket:
    """A connection on which a completion was asked for."""
    data = json.dumps({"prompt": "compute 17 + 5", "max_tokens": 100_000, **body}).encode()
    raw = socket.create_connection(("127.0.0.1", client.port))
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    raw.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return raw


def until_status(client: Client, name: str, value: int) -> None:
    until(lambda: client.get("/api/status").json[name] == value)


def test_a_line_past_its_deadline_is_answered_with_what_there_is(waiting):
    answer = waiting.post("/v1/completions", {"prompt": "x", "max_tokens": 100_000, "timeout": 0.5})
    assert answer.status == 200 and answer.json["choices"][0]["finish_reason"] == "length"
    assert 0 < answer.json["usage"]["completion_tokens"] < 100_000


def test_a_search_past_its_deadline_is_answered_with_its_best_so_far(waiting):
    answer = chat(waiting, thinking={"budget": 250_000}, timeout=0.5)
    assert answer.status == 200 and answer.json["thinking"]["stopped"] == "budget"
    assert answer.json["thinking"]["cost"]["tokens"] < 250_000


def test_a_solve_past_its_deadline_is_done_with_its_best_so_far(waiting):
    job = waiting.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 250_000}, "timeout": 0.5})
    until(lambda: waiting.get(f"/v1/solves/{job.json['id']}").json["status"] == "done")
    done = waiting.get(f"/v1/solves/{job.json['id']}").json
    assert done["posterior"]["stopped"] == "budget"


def test_a_server_has_a_deadline_of_its_own(endless):
    with served(endless, deadline=0.5) as client:
        answer = client.post("/v1/completions", {"prompt": "x", "max_tokens": 100_000, "timeout": 100.0})
    assert answer.status == 200 and 0 < answer.json["usage"]["completion_tokens"] < 100_000


def test_who_waits_past_the_deadline_is_told_so_and_who_finds_the_queue_full_when_to_come_again(endless):
    with served(endless, max_running=1, max_waiting=1) as client, ask(client):
        until_status(client, "requests_running", 1)
        late = client.post("/v1/completions", {"prompt": "x", "timeout": 0.3})
        assert late.status == 504 and late.json["error"]["code"] == "deadline"
        until_status(client, "requests_waiting", 0)
        with ask(client):
            until_status(client, "requests_waiting", 1)
            full = client.post("/v1/completions", {"prompt": "x"})
            assert full.status == 429 and 1 <= int(full.headers["retry-after"]) <= 600
            assert 'outthink:requests_refused_total{model_name="endless"} 1.0' in client.get("/metrics").body.decode()
    assert_free(endless)


def test_priorities_reach_the_ledger_and_deadlines_bound_its_seconds():
    Terms.agree(OnTerms(priority=3, timeout=5.0), ())
    terms = Terms.here()
    assert terms.priority == 3 and 4 < terms.until - time.monotonic() <= 5
    seconds = terms.limit(Budget(tokens=7)).seconds
    assert seconds is not None and 4 < seconds <= 5
    assert terms.limit(Budget(seconds=1.0)) == Budget(seconds=1.0)
    assert terms.within(0.0).limit(Budget()).seconds == 0.0
    Terms.agree(OnTerms(), ())
    assert Terms.here() == Terms(0, math.inf) and Terms.here().limit(Budget("4k")) == Budget("4k")


def test_a_priority_is_the_gangs(endless):
    assert_free(endless)
    with served(endless) as client, ask(client, priority=2):
        until_status(client, "num_sequences_running", 1)
        assert endless.thread.call(lambda: [s.gang.priority for s in endless.engine.scheduler.running]) == [2]
    assert_free(endless)


@pytest.mark.parametrize("more", [{"priority": 17}, {"priority": 0.5}, {"timeout": 0}, {"timeout": -1.0}])
def test_terms_that_cannot_be_are_refused(client, more):
    assert chat(client, **more).status == 400
    assert client.post("/v1/solves", {"problem": "x", **more}).status == 400


def test_nobody_goes_before_the_other_clients_of_a_server(model):
    Terms.agree(OnTerms(priority=-3), ("the-only-key",))
    with pytest.raises(ApiError):
        Terms.agree(OnTerms(priority=-3), KEYS)
    with served(model, api_keys=KEYS) as client:
        assert chat(client, priority=-1).status == 400
        assert client.post("/v1/solves", {"problem": "x", "priority": -1}).status == 400
        assert chat(client, priority=1, max_tokens=2).status == 200


def test_a_client_finds_what_it_sent_before_and_nothing_of_another(model):
    prompt = {"prompt": "a text of some length that two clients send, one after the other, word for word", "seed": 1}

    def cached(client: Client) -> int:
        usage = client.post("/v1/completions", {**prompt, "max_tokens": 1}).json["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    with served(model, api_keys=KEYS) as first:
        second = Client(first.port, KEYS[1])
        assert [cached(first), cached(second)] == [0, 0], "the second finds nothing of the first"
        again = [cached(first), cached(second)]
        assert again[0] == again[1] > 0, "each finds its own"
    with served(model, api_keys=KEYS) as restarted:
        assert cached(restarted) == 0, "a new process has a new secret, and so new names for its tenants"


def test_what_is_over_before_it_begins_is_told_so(client):
    for body in (
        {"timeout": 1e-6},
        {"timeout": 1e-6, "thinking": {"budget": 1_000}},
        {"timeout": 1e-6, "stream": True},
    ):
        answer = chat(client, **body)
        assert answer.status == 504 and answer.json["error"]["code"] == "deadline"


def test_a_solve_that_waits_past_its_deadline_fails_without_having_begun(endless):
    long = {"problem": "compute 17 + 5", "thinking": {"budget": 250_000}}
    with served(endless, max_jobs=1) as client:
        first = client.post("/v1/solves", long).json["id"]
        until(lambda: client.get(f"/v1/solves/{first}").json["status"] == "running")
        second = client.post("/v1/solves", {**long, "timeout": 0.3}).json["id"]
        until(lambda: client.get(f"/v1/solves/{second}").json["status"] == "failed")
        assert client.get(f"/v1/solves/{second}").json["error"]["code"] == "deadline"
        assert client.get(f"/v1/solves/{first}").json["status"] == "running"
        client.send("DELETE", f"/v1/solves/{first}", None, {})
    assert_free(endless)
