"""Four ways to ask for thought, solves that outlast their client, and what becomes of those that leave."""

import json
import socket
import time

import pytest

from cli.tiny_model import RIGHT
from outthink.core.budget import Budget
from outthink.reason import STRATEGIES
from outthink.serve.app import make_app
from outthink.serve.config import ServeConfig
from outthink.serve.failures import ApiError
from outthink.serve.formats import format_of
from outthink.serve.refused import RefusedInChat, RefusedInGenerating
from outthink.serve.rows import Row, check_rows, run_row
from outthink.serve.schema import ChatRequest, Thinking
from outthink.serve.service import sampling_of
from outthink.serve.thinking import plan_of
from outthink.serve.thought_chat import plan_of_chat

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


def test_a_budget_is_spent_but_for_options_that_say_less(client):
    thought = {"strategy": "mcts", "budget": 1500}
    assert 0.9 * 1500 <= chat(client, thinking=thought).json["thinking"]["cost"]["tokens"] <= 1500
    few = chat(client, thinking=thought | {"options": {"n": 2}}).json["thinking"]
    assert few["cost"]["tokens"] < 500


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
        {"thinking": {"verifier": "product(exact, code)"}},
        {"thinking": {"budget": "many tokens"}},
        {"thinking": {"budget": 1 << 39}},
        {"thinking": {"strategy": "greedy", "confidence": 0.9}},
        {"thinking": {"options": {"n": 1 << 40}}},
        {"thinking": {"options": {"no_such_option": 1}}},
        {"thinking": {"budgets": 3}},
        {"thinking": {}, "n": 2},
        {"thinking": {}, "stop": "x"},
        {"thinking": {"options": {"max_tokens": 4}}, "max_tokens": 5},
        {"thinking": {"confidence": 0.9, "options": {"settled": 0.8}}},
        {"thinking": {"confidence": 0.9}, "model": "tiny:majority-vote-1k"},
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


ABLE = [method.name for method in STRATEGIES if method.confidence is not None]


def test_a_confidence_alone_asks_for_a_strategy_that_has_one():
    assert "adaptive-vote" in ABLE
    plan = plan_of(Thinking(confidence=0.75))
    assert plan is not None and (plan.strategy, plan.options) == ("adaptive-vote", {"settled": 0.75})
    for name in STRATEGIES.names():
        if name not in ABLE:
            with pytest.raises(ApiError, match="confidence"):
                plan_of(Thinking(strategy=name, confidence=0.75))


@pytest.mark.parametrize("strategy", ABLE)
def test_the_surer_it_must_be_the_more_it_tries(client, strategy):
    found = [
        chat(client, thinking={"strategy": strategy, "budget": 8000, "confidence": sure}).json["thinking"]
        for sure in (0.51, 0.9, 0.999)
    ]
    attempts = [each["attempts"] for each in found]
    assert attempts == sorted(attempts) and attempts[0] < attempts[-1]
    assert found[0]["stopped"] == "settled" and {each["method"] for each in found} == {strategy}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beside_thinking_is_that_of_a_line(client, model, field):
    """Clients that can say no more than a model's name say how long an answer may be, too."""
    name = f"{model.name}:majority-vote-1k"
    found = chat(client, model=name, **{field: 1}).json
    assert found["thinking"]["cost"]["decoded"] == found["thinking"]["attempts"] > 1
    response = client.post("/v1/responses", {"model": name, "input": "compute 17 + 5", "max_output_tokens": 1}).json
    assert response["thinking"]["cost"]["decoded"] == response["thinking"]["attempts"] > 1


def test_every_strategy_has_a_limit_for_a_line_or_says_that_it_has_none():
    for method in STRATEGIES:
        if "max_tokens" in method.options:
            assert plan_of(Thinking(strategy=method.name), longest=5).options["max_tokens"] == 5  # type: ignore[union-attr]
        else:
            with pytest.raises(ApiError, match="max_tokens"):
                plan_of(Thinking(strategy=method.name), longest=5)


SAMPLING = {
    "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": 0.5,
    "repetition_penalty": 1.5, "logit_bias": {"3": 1.0}, "seed": 9,
}  # fmt: skip
TERMS = {"priority": 1, "timeout": 5.0, "stream": True}
FORMS = {
    "response_format": {"type": "json_object"}, "structured_outputs": {"regex": "x"}, "guided_json": {"type": "object"},
    "guided_regex": "x", "guided_choice": ["x"],
}  # fmt: skip
PLAN = {
    "thinking": {"budget": 9}, "reasoning_effort": "low", "thinking_token_budget": 9, "max_tokens": 1,
    "max_completion_tokens": 1,
}  # fmt: skip
MEANINGLESS = {"user": "x", "safety_identifier": "x", "metadata": {"a": "b"}, "store": False}
UNHEEDED = {
    "n": 2, "stop": "x", "stop_token_ids": [1], "ignore_eos": True, "include_stop_str_in_output": True,
    "logprobs": True, "top_logprobs": 1, "add_generation_prompt": False, "continue_final_message": True,
    "return_token_ids": True, "return_tokens_as_token_ids": True,
}  # fmt: skip


def asked(**more):
    return ChatRequest.model_validate({"messages": CHAT, "thinking": {}, "seed": 1, **more})


def test_every_field_of_a_chat_is_heeded_beside_thinking_or_refused(model):
    """A field that is not named here fails this test: say what becomes of it."""
    service = make_app(model, ServeConfig()).app.state.service
    never = {*RefusedInChat.model_fields, *RefusedInGenerating.model_fields, "extra_body"}
    known = {**SAMPLING, **TERMS, **FORMS, **PLAN, **MEANINGLESS, **UNHEEDED}
    assert known.keys() | never | {"messages", "model", "stream_options"} == ChatRequest.model_fields.keys()
    for name, value in UNHEEDED.items():
        with pytest.raises(ApiError) as refused:
            plan_of_chat(service, asked(**{name: value}))
        assert refused.value.param == name
    with pytest.raises(ApiError, match="continuous_usage_stats"):
        plan_of_chat(service, asked(stream=True, stream_options={"continuous_usage_stats": True}))
    for name in known.keys() - UNHEEDED.keys():
        assert plan_of_chat(service, asked(**{name: known[name]})) is not None, name
    for name, value in SAMPLING.items():
        assert sampling_of(asked(**{name: value})) != sampling_of(asked()), name
    for name, value in FORMS.items():
        assert format_of(asked(**{name: value})) is not None, name


@pytest.mark.parametrize(
    "nothing",
    [{"stop": []}, {"stop_token_ids": []}, {"stop": None}, {"n": 1}, {"logprobs": False}, {"top_logprobs": 0},
     {"ignore_eos": False}, {"add_generation_prompt": True}, {"stream": True, "stream_options": {}},
     {"stream": True, "stream_options": {"continuous_usage_stats": False, "include_usage": True}}],
)  # fmt: skip
def test_what_asks_for_nothing_may_stand_beside_thinking(model, nothing):
    assert plan_of_chat(make_app(model, ServeConfig()).app.state.service, asked(**nothing)) is not None


@pytest.mark.parametrize(
    "more", [{"strategy": "best-of-n", "verifier": "self-evaluation"}, {"strategy": "hint-marginalization"}]
)
def test_usage_counts_the_prompt_and_not_what_else_was_read(client, more):
    plain = chat(client, max_tokens=1).json["usage"]
    asked = {"budget": 2000, "options": {"n": 4}, **more}
    found = chat(client, thinking=asked).json
    cost = found["thinking"]["cost"]
    assert cost["prefilled"] + cost["cached"] > plain["prompt_tokens"]
    assert found["usage"]["prompt_tokens"] == plain["prompt_tokens"]
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] <= plain["prompt_tokens"]
    response = client.post("/v1/responses", {"input": CHAT, "thinking": asked, "seed": 1}).json["usage"]
    assert response["input_tokens"] == plain["prompt_tokens"]


def test_a_verifier_that_is_not_known_is_answered_with_those_that_are(client):
    message = chat(client, thinking={"verifier": "no-such-thing"}).json["error"]["message"]
    known = message.partition("Known: ")[2].rstrip(".").split(", ")
    assert "exact" in known and "code" not in known
    assert known == client.get("/api/methods").json["verifiers"]


def test_the_name_of_the_model_says_how_a_solve_thinks(client, model):
    named = {"model": f"{model.name}:sample-until-verified-2k", "problem": "compute 17 + 5", "seed": 1}
    job = client.post("/v1/solves", {**named, "thinking": {"verifier": "exact"}})
    done = wait_for(client, job.json["id"], "done")
    assert done["posterior"]["method"] == "sample-until-verified" and done["posterior"]["best"] == RIGHT
    assert done["thinking"] == {"strategy": "sample-until-verified", "budget": "2k tokens", "verifier": "exact"}
    assert client.post("/v1/solves", {**named, "model": f"{model.name}:no-such-thing"}).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": "x"}), ("/v1/embeddings", {"input": "x"}), ("/tokenize", {"prompt": "x"}),
     ("/detokenize", {"tokens": [3]})],
)  # fmt: skip
def test_a_name_that_asks_for_thought_is_refused_where_there_is_none(client, model, path, body):
    told = client.post(path, {**body, "model": f"{model.name}:mcts-8k"})
    assert told.status == 400 and told.json["error"]["param"] == "model"


async def test_rows_of_a_batch_heed_the_name_of_the_model(model):
    app = make_app(model, ServeConfig()).app
    service, lines = app.state.service, []
    for number, (url, strategy, body) in enumerate([
        ("solves", "greedy", {"problem": "compute 17 + 5"}), ("solves", "no-such-thing", {"problem": "x"}),
        ("embeddings", "greedy", {"input": "x"}), ("completions", "greedy", {"prompt": "x"}),
        ("chat/completions", "greedy", {"messages": CHAT, "n": 2}),
    ]):  # fmt: skip
        lines.append(Row(number, str(number), f"/v1/{url}", {**body, "model": f"{model.name}:{strategy}-1k"}, "x"))
    refused = check_rows(service, lines)
    assert [result.number for result in refused] == [1, 2, 3, 4] and all(result.failed for result in refused)
    result = await run_row(app, service, "", lines[0])
    assert json.loads(result.line)["response"]["body"]["posterior"]["method"] == "greedy"


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
