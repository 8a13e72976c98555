"""The openai package on the server: its calls, streams, refusals, and clients that leave."""

import asyncio

import openai
import pytest

pytestmark = pytest.mark.clients
PROBLEM = "compute 12 + 7 * 5"
CHAT = [{"role": "user", "content": PROBLEM}]
LONG = "compute " + " + ".join(str(number) for number in range(10, 60))
UNENDING = {"ignore_eos": True}


@pytest.fixture
def api(server):
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def model(api):
    [served] = api.models.list().data
    return served.id


def asynchronous(server):
    return openai.AsyncOpenAI(base_url=server.api, api_key="none", max_retries=0, timeout=120)


def test_a_chat_whole_and_streamed_is_the_same(api, model):
    whole = api.chat.completions.create(model=model, messages=CHAT, seed=3, n=2, logprobs=True, top_logprobs=2)
    stream = api.chat.completions.create(
        model=model, messages=CHAT, seed=3, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, usage = {0: "", 1: ""}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert [texts[choice.index] for choice in whole.choices] == [choice.message.content for choice in whole.choices]
    assert usage is not None and usage.completion_tokens == whole.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for choice in whole.choices for token in choice.logprobs.content)


async def test_the_asynchronous_client_gets_what_the_other_gets(server, api, model):
    arguments = {"model": model, "messages": CHAT, "temperature": 0}
    async with asynchronous(server) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**arguments) for _ in range(4)))
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**arguments, stream=True)
        ]
    said = api.chat.completions.create(**arguments).choices[0].message.content
    assert {answer.choices[0].message.content for answer in answers} == {said} == {"".join(pieces)}
    assert "answer: 47" in said


def test_the_other_routes(api, model):
    assert api.models.retrieve(model).id == model
    text = api.completions.create(model=model, prompt="compute 1", max_tokens=5, logprobs=1, echo=True)
    assert text.choices[0].text.startswith("compute 1") and text.choices[0].logprobs.token_logprobs[0] is None
    vectors = api.embeddings.create(model=model, input=["compute 1 + 1", "compute 1 + 1", "x"]).data
    assert vectors[0].embedding == vectors[1].embedding != vectors[2].embedding
    response = api.responses.create(model=model, input=PROBLEM, temperature=0)
    assert "answer: 47" in response.output_text


def test_thinking_by_a_field_of_the_body_and_by_the_name(api, model):
    thinking = {"strategy": "majority-vote", "budget": 2000}
    by_field = api.chat.completions.create(model=model, messages=CHAT, extra_body={"thinking": thinking})
    by_name = api.chat.completions.create(model=f"{model}:majority-vote-2k", messages=CHAT)
    for answer in (by_field, by_name):
        assert answer.choices[0].message.content == "47"
        thought = answer.model_extra["thinking"]
        assert thought["confidence"] > 0.5 and 0 < thought["cost"]["decoded"] <= 2000


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}]}, "tools"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "4"}}, "prediction"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(api, model, asked, named):
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model=model, messages=CHAT, **asked)
    assert named in (refused.value.param or "") and refused.value.status_code == 400


def test_32_equal_prompts_at_once_share_one_prefill(server, model):
    async def ask():
        async with asynchronous(server) as client:
            message = [{"role": "user", "content": LONG}]
            calls = [
                client.chat.completions.create(model=model, messages=message, max_tokens=4, seed=seed)
                for seed in range(32)
            ]
            return await asyncio.gather(*calls)

    before = server.metrics()
    answers = asyncio.run(ask())
    after = server.metrics()
    prompt = answers[0].usage.prompt_tokens
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in answers]
    assert prompt > 150 and len(answers) == 32
    # Only full pages of 16 positions are shared, and the last position is always computed.
    assert sum(prompt - each for each in cached) <= prompt + 31 * 17
    asked, hit = (after[name] - before[name] for name in ("prefix_cache_queries_total", "prefix_cache_hits_total"))
    assert (asked, hit) == (32 * prompt, sum(cached))


def test_requests_dropped_half_way_free_their_pages(server, model):
    async def drop():
        async with asynchronous(server) as client:
            arguments = {"model": model, "max_tokens": 600, "extra_body": UNENDING}
            streams = [
                await client.completions.create(prompt=f"{LONG} + {k}", stream=True, **arguments) for k in range(4)
            ]
            for stream in streams:
                await anext(aiter(stream))
                await stream.close()
            whole = [
                asyncio.create_task(client.completions.create(prompt=f"{LONG} - {k}", **arguments)) for k in range(4)
            ]
            while server.metrics()["num_sequences_running"] < 1:
                await asyncio.sleep(0)
            for task in whole:
                task.cancel()
            return await asyncio.gather(*whole, return_exceptions=True)

    assert all(isinstance(each, asyncio.CancelledError) for each in asyncio.run(drop()))
    server.wait_idle()
