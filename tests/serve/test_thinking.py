"""Four ways to ask for thought, solves that outlast their client, and what becomes of those that leave."""

import socket
import time

import pytest

from cli.tiny_model import RIGHT
from outthink.core.budget import Budget
from outthink.serve.failures import ApiError
from outthink.serve.schema import Thinking
from outthink.serve.thinking import plan_of

CHAT = [{"role": "user", "content": "compute 17 + 5"}]


def chat(client, **more):
    return client.post("/v1/chat/completions", {"messages": CHAT, "seed": 1, **more})


def test_a_thinking_object_gets_a_posterior_and_a_bill(client):
    answer = chat(
        client, thinking={"strategy": "sample-until-verified", "verifier": "exact", "budget": "4k tokens"}
    ).json
    assert answer["choices"][0]["message"]["content"] == RIGHT
    assert answer["choices"][0]["message"]["reasoning_content"].count(f"answer: {RIGHT}")
    thinking = answer["thinking"]
    assert thinking["best"] == RIGHT and thinking["confidence"] == 1 and thinking["stopped"] == "verified"
    usage = answer["usage"]
    assert usage["search_tokens"] == usage["completion_tokens"] == thinking["cost"]["decoded"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
    assert answer["choices"][0]["message"]["reasoning"] == answer["choices"][0]["message"]["reasoning_content"]


@pytest.mark.parametrize(
    "way", [{"reasoning_effort": "low"}, {"thinking_token_budget": 500}, {"suffix": ":majority-vote-1k"}]
)
def test_every_other_way_thinks_too(client, model, way):
    way = dict(way)
    name = model.name + way.pop("suffix", "")
    answer = chat(client, model=name, **way)
    assert answer.status == 200 and answer.json["thinking"]["method"] == "majority-vote"
    assert answer.json["thinking"]["cost"]["tokens"] <= 1000


def test_effort_none_is_a_plain_completion(client):
    assert "thinking" not in chat(client, reasoning_effort="none", max_tokens=4).json


def test_a_stream_of_thought_ends_in_the_answer(client):
    chunks = chat(client, thinking={"budget": 2000}, stream=True, stream_options={"include_usage": True}).events
    assert "progress" in chunks[0]
    content = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    [final] = [chunk for chunk in chunks if "thinking" in chunk]
    assert content == final["thinking"]["best"]
    assert chunks[-1]["usage"]["search_tokens"] == final["thinking"]["cost"]["decoded"]


@pytest.mark.parametrize(
    "more",
    [
        {"thinking": {"strategy": "no-such-thing"}},
        {"thinking": {"verifier": "no-such-thing"}},
        {"thinking": {"verifier": "prm:/etc"}},
        {"thinking": {"verifier": "prm:someone/else"}},
        {"thinking": {"budget": "many tokens"}},
        {"thinking": {"budget": 1 << 39}},
        {"thinking": {"strategy": "greedy", "confidence": 0.9}},
        {"thinking": {"options": {"n": 1 << 40}}},
        {"thinking": {"options": {"no_such_option": 1}}},
        {"thinking": {"budgets": 3}},
        {"thinking": {}, "n": 2},
        {"thinking": {}, "stop": "x"},
        {"thinking": {}, "max_tokens": 5},
        {"model": "tiny:no-such-thing-8k"},
        {"model": "tiny:mcts-8k-2"},
    ],
)
def test_thought_that_cannot_be_is_refused(client, more):
    assert chat(client, **more).status == 400


def test_the_nearest_wish_wins():
    plan = plan_of(Thinking(budget=100), "high", 500, "mcts-8k")
    assert plan is not None and (plan.strategy, plan.budget) == ("mcts", Budget(tokens=100))
    assert plan_of(None, "high", 500, "mcts-8k").budget == Budget(tokens=8000)  # type: ignore[union-attr]
    assert plan_of(None, "high", 500).budget == Budget(tokens=500)  # type: ignore[union-attr]
    with pytest.raises(ApiError):
        plan_of(None, suffix="MCTS")


def test_a_solve_goes_on_alone_and_ends_in_a_posterior(client):
    job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 3000}, "seed": 2})
    assert job.status == 202
    done = wait_for(client, job.json["id"], "done")
    assert done["posterior"]["best"] is not None and "tree" not in done["posterior"]
    with_tree = client.get(f"/v1/solves/{done['id']}?tree=true").json
    assert len(with_tree["posterior"]["tree"]["nodes"]) > 2
    assert client.get("/v1/solves").json["data"][0]["id"] == done["id"]


def test_following_a_solve_ends_when_it_does(client):
    job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 3000}}).json
    news = client.get(f"/v1/solves/{job['id']}/events").events
    assert news[-1]["status"] == "done" and news[-1]["posterior"]["tree"]["nodes"]


def test_a_cancelled_solve_frees_its_pages(waiting, endless):
    job = waiting.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 250_000}}).json
    wait_for(waiting, job["id"], "running")
    assert waiting.send("DELETE", f"/v1/solves/{job['id']}").json["status"] == "cancelled"
    assert_free(endless)
    assert waiting.send("DELETE", "/v1/solves/solve-unknown").status == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_pages(waiting, endless, stream):
    body = b'{"messages":[{"role":"user","content":"compute 17 + 5"}],"stream":%s,'
    body += b'"thinking":{"budget":250000}}'
    body %= b"true" if stream else b"false"
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", waiting.port)) as raw:
        raw.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: waiting.get("/api/status").json["num_sequences_running"] > 0)
    assert_free(endless)


def wait_for(client, job_id, status):
    found = {}

    def there():
        found.update(client.get(f"/v1/solves/{job_id}").json)
        return found["status"] == status

    until(there)
    return found


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def assert_free(model):
    """No page is held any more, soon."""
    until(lambda: not model.thread.call(model.engine.scheduler.leases))
