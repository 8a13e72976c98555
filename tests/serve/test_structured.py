"""Answers in a form that was asked for: whatever the way to ask, the model and the chance, they are of that form."""

import asyncio
import json
import re

import openai
import pydantic
import pytest

from outthink.serve.failures import ApiError
from outthink.serve.formats import Format, Formats

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
JSON = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": SCHEMA}}


class Sum(pydantic.BaseModel):
    """What `SCHEMA` describes."""

    model_config = pydantic.ConfigDict(extra="forbid")
    sum: int = pydantic.Field(ge=0, le=99)
    sure: bool


def api(client, kind=openai.OpenAI):
    return kind(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)


def texts(answer):
    return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in answer["choices"]]


def test_every_choice_is_of_the_schema_and_the_same_for_the_same_seed(client):
    request = {"messages": CHAT, "n": 8, "seed": 3, "response_format": JSON, "logprobs": True}
    answer = client.post("/v1/chat/completions", request).json
    found = [Sum.model_validate_json(text) for text in texts(answer)]
    assert len({each.sum for each in found}) > 1
    assert all(choice["finish_reason"] == "stop" for choice in answer["choices"])
    again = client.post("/v1/chat/completions", request).json
    assert texts(again) == texts(answer)
    one = client.post("/v1/chat/completions", {**request, "n": 1}).json
    assert texts(one) == texts(answer)[:1]


def test_the_openai_client_parses_what_it_asked_for(client, model):
    chat = api(client).chat.completions.parse(model=model.name, messages=CHAT, response_format=Sum, seed=1)
    assert isinstance(chat.choices[0].message.parsed, Sum)
    answer = api(client).responses.parse(model=model.name, input="compute 17 + 5", text_format=Sum)
    assert isinstance(answer.output_parsed, Sum)
    with api(client).chat.completions.stream(model=model.name, messages=CHAT, response_format=Sum, seed=1) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == chat.choices[0].message.parsed


async def test_the_async_client_streams_what_it_asked_for(client, model):
    async with api(client, openai.AsyncOpenAI) as asking:
        stream = await asking.chat.completions.create(
            model=model.name, messages=CHAT, response_format=JSON, stream=True, seed=5
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    Sum.model_validate_json(text)


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ({"response_format": {"type": "json_object"}, "max_tokens": 200, "n": 4}, None),
        (
            {"structured_outputs": {"regex": r"(17|5)( \+ (17|5)){1,3} = [0-9]{2}"}},
            r"(17|5)( \+ (17|5)){1,3} = [0-9]{2}",
        ),
        ({"structured_outputs": {"choice": ["yes", "no", 'a "quoted" one']}}, r'yes|no|a "quoted" one'),
        ({"guided_regex": "[a-c]{3}/x"}, "[a-c]{3}/x"),
        ({"guided_choice": ["22", "21"]}, "22|21"),
        ({"guided_json": json.dumps(SCHEMA)}, None),
        ({"structured_outputs": {"json": SCHEMA}}, None),
        ({"structured_outputs": {"json": {"enum": [1, "two", None]}}}, r'1|"two"|null'),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_every_way_to_ask_is_kept(client, path, how, pattern):
    asked = {"prompt": "x"} if path == "/v1/completions" else {"messages": CHAT}
    answer = client.post(path, {**asked, "max_tokens": 60, "seed": 2, "n": 3, **how})
    assert answer.status == 200, answer.body
    for text, choice in zip(texts(answer.json), answer.json["choices"], strict=True):
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(pattern, text) if pattern else isinstance(json.loads(text), dict)
    assert any(choice["finish_reason"] == "stop" for choice in answer.json["choices"]) or "json_object" in str(how)


def test_a_text_that_is_cut_says_length(client):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "response_format": JSON, "max_tokens": 4}).json
    assert answer["choices"][0]["finish_reason"] == "length" and texts(answer)[0].startswith("{")


def test_a_form_goes_with_stop_strings_penalties_and_filters(client):
    more = {"stop": ["sure"], "frequency_penalty": 0.5, "repetition_penalty": 1.2, "top_k": 3, "top_p": 0.9}
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "response_format": JSON, "n": 4, **more}).json
    assert all(re.fullmatch(r'\{\s*"sum"\s*:\s*[0-9]{1,2}\s*,\s*"', text) for text in texts(answer))


def test_thought_ends_in_an_answer_of_the_form(client):
    thinking = {"strategy": "majority-vote", "budget": 600}
    request = {"messages": CHAT, "response_format": JSON, "seed": 1, "thinking": thinking}
    answer = client.post("/v1/chat/completions", request).json
    best = Sum.model_validate_json(texts(answer)[0])
    found = answer["thinking"]
    assert Sum.model_validate_json(found["best"]) == best
    assert len(found["weights"]) > 1 and all(Sum.model_validate_json(answer) for answer in found["weights"])
    wanted = {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA}}
    response = client.post("/v1/responses", {"input": "compute 17 + 5", "text": wanted, "thinking": thinking}).json
    Sum.model_validate_json(response["output"][-1]["content"][0]["text"])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"response_format": {"type": "json_schema"}}, "go together"),
        ({"response_format": {"type": "grammar"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "give one"),
        ({"response_format": JSON, "ignore_eos": True}, "ignore_eos"),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "grammar"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag"),
        ({"guided_grammar": 'root ::= "a"'}, "JSON schema"),
        ({"guided_regex": "(a"}, "regular expression"),
        ({"guided_regex": "a" * 5000}, "4,096"),
        ({"guided_regex": "(a?){300}(a{1,300}){1,300}" + "(a?)" * 400}, "too"),
        ({"guided_json": "{no json"}, "no JSON"),
        ({"guided_json": {"not": {}}}, "not"),
        ({"guided_json": {"$ref": "file:///etc/passwd"}}, "another document"),
        ({"guided_json": {"enum": ["x" * 100 + str(i) for i in range(1000)]}}, "65,536"),
        ({"guided_json": {"type": "integer", "minimum": -(10**300), "maximum": 10**300}}, "too far apart"),
    ],
)
def test_forms_that_cannot_be_kept_are_refused_and_say_why(client, how, why):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, **how})
    assert answer.status == 400 and why in answer.json["error"]["message"], answer.body


def test_a_schema_nested_without_end_is_refused(client):
    schema = '{"items":' * 500 + "{}" + "}" * 500
    body = b'{"messages":[{"role":"user","content":"x"}],"guided_json":%s}' % schema.encode()
    assert client.send("POST", "/v1/chat/completions", body).status == 400


async def test_a_grammar_without_end_takes_nobody_elses_time(model):
    formats = Formats(model.loaded.tokenizer, cpu_seconds=1)
    endless = Format("schema", {"type": "integer", "multipleOf": 9_999_991}, "response_format")
    work = asyncio.create_task(formats.constraint("me", endless))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.005)
        turns += 1
    with pytest.raises(ApiError) as refused:
        work.result()
    assert refused.value.status == 400 and "too costly" in refused.value.message
    assert turns > 10
    with pytest.raises(ApiError):
        await formats.constraint("me", endless)  # known by now


async def test_what_one_tenant_asked_for_no_other_can_measure(model, monkeypatch):
    """A form is tried for each tenant by itself: for none is it quicker because another knows it."""
    formats, tried = Formats(model.loaded.tokenizer), []

    async def try_out(grammar):
        tried.append(grammar)
        return "it is not to be" if len(tried) % 2 else ""

    monkeypatch.setattr(formats, "_try_out", try_out)
    wanted = Format("choice", ["a"], "guided_choice")
    for _ in range(2):
        with pytest.raises(ApiError):
            await formats.constraint("me", wanted)
    assert len(tried) == 1
    assert (await formats.constraint("you", wanted)).accepts("a") and len(tried) == 2
    assert (await formats.constraint("you", wanted)).accepts("a") and len(tried) == 2


async def test_bad_grammars_of_one_tenant_keep_no_other_waiting(model, monkeypatch):
    formats, release, trying = Formats(model.loaded.tokenizer), asyncio.Event(), []

    async def try_out(grammar):
        if "bad" in grammar:
            trying.append(grammar)
            await release.wait()
        return ""

    monkeypatch.setattr(formats, "_try_out", try_out)
    bad = [Format("choice", [f"bad {number}"], "guided_choice") for number in range(9)]
    work = [asyncio.create_task(formats.constraint("me", each)) for each in bad]
    while len(trying) < 2:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        assert (await formats.constraint("you", Format("choice", ["a"], "guided_choice"))).accepts("a")
    assert len(trying) == 2 and not any(task.done() for task in work)
    release.set()
    assert len(await asyncio.gather(*work)) == 9


async def test_a_trial_that_is_cancelled_leaves_no_process(model):
    formats = Formats(model.loaded.tokenizer, cpu_seconds=30)
    work = asyncio.create_task(
        formats.constraint("me", Format("schema", {"type": "integer", "multipleOf": 9_999_991}, "response_format"))
    )
    await asyncio.sleep(0.05)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    again = await formats.constraint("me", Format("choice", ["a"], "guided_choice"))
    assert again.accepts("a") and not again.accepts("b")
