"""``/v1/responses`` as the openai package reads it: whole, streamed, by thinking, in a form."""

import openai
import pytest

ASKED = {"input": "compute 17 + 5", "seed": 5, "max_output_tokens": 9}
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
THINKING = {"thinking": {"strategy": "majority-vote", "budget": 400}}


@pytest.fixture
def api(client, model):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0) as found:
        yield found


def streamed(api, model, **asked):
    return list(api.responses.create(model=model.name, stream=True, **asked))


def request(more):
    """``more`` as arguments of the client, which knows no seeds."""
    return {"input": ASKED["input"], "max_output_tokens": 9, "extra_body": {"seed": 5}} | more


def test_a_stream_has_the_official_events_in_their_order(api, client, model):
    whole = client.post("/v1/responses", ASKED).json
    events = streamed(api, model, **request({}))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds))[:-1] == ORDER[:-1] and kinds[-1] == f"response.{whole['status']}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    named = client.post("/v1/responses", {**ASKED, "stream": True}).body.decode()
    assert [line.removeprefix("event: ") for line in named.splitlines() if line.startswith("event: ")] == kinds
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text == whole["output"][0]["content"][0]["text"]
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {final.output[0].id}
    assert final.usage.output_tokens == whole["usage"]["output_tokens"]
    assert events[0].response.id == final.id and events[0].response.status == "in_progress"


def test_the_clients_own_accumulation_agrees(api, model):
    with api.responses.stream(model=model.name, **request({})) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == api.responses.create(model=model.name, **request({})).output_text


async def test_the_async_client_reads_them_too(client, model):
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none") as api:
        stream = await api.responses.create(model=model.name, stream=True, **request({}))
        kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")


def test_a_text_that_is_cut_is_incomplete(api, client, model):
    cut = {"max_output_tokens": 1, "instructions": "Be brief.", "temperature": 0.0}
    found = [api.responses.create(model=model.name, **request(cut | {"extra_body": {"seed": s}})) for s in range(3)]
    for response in found:
        assert response.usage.output_tokens == 1
        complete = response.output_text == ""
        assert response.status == ("completed" if complete else "incomplete")
        assert complete or response.incomplete_details.reason == "max_output_tokens"
    assert any(response.status == "incomplete" for response in found)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_answers_with_reasoning_and_counts_all_branches(api, client, model, stream):
    asked = {"input": "compute 17 + 5", "extra_body": THINKING | {"seed": 1}}
    if stream:
        events = streamed(api, model, **asked)
        kinds = list(dict.fromkeys(event.type for event in events))
        assert "response.reasoning_summary_text.delta" in kinds
        response = events[-1].response
        items = [event.item.id for event in events if event.type == "response.output_item.done"]
        assert items == [item.id for item in response.output]
    else:
        response = api.responses.create(model=model.name, **asked)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == response.thinking["best"]
    details, cost = response.usage.output_tokens_details, response.thinking["cost"]
    assert response.usage.output_tokens == cost["decoded"] > details.reasoning_tokens > 0


def test_what_was_said_before_comes_back_as_input(api, client, model):
    first = api.responses.create(model=model.name, **request({}))
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "compute 17 + 5"}]},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "message", "role": "user", "content": "and again"},
    ]
    assert api.responses.create(model=model.name, **request({"input": conversation})).usage.input_tokens > 20


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]}, None),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client, sent, param):
    answer = client.post("/v1/responses", {"input": "compute 17 + 5", **sent})
    assert answer.status == 400, answer.body
    assert param is None or answer.json["error"]["param"] == param


def test_what_asks_for_nothing_is_taken(client):
    neutral = {"tools": [], "tool_choice": "auto", "store": False, "truncation": "disabled", "metadata": {"a": "b"},
               "include": [], "service_tier": "default", "text": {"format": {"type": "text"}}}  # fmt: skip
    assert client.post("/v1/responses", {**ASKED, **neutral}).status == 200
