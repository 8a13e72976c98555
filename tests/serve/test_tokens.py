"""Tokens on the wire: a stream says of each what the whole answer says, and our own client reads them back."""

import asyncio
from itertools import groupby

import openai
import pytest

import outthink
from outthink.lm.laws import LAWS, budgets_are_charged_once, check_lm
from outthink.lm.remote.laws import laws_of

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
PROMPT = "compute 17 + 5"
BY_TOKEN = {"return_token_ids": True, "return_tokens_as_token_ids": True}
REQUESTS = {
    "plain": {"n": 2, "max_tokens": 12},
    "stopped": {"n": 2, "max_tokens": 20, "stop": ["22\n", "answer"]},
    "stop kept": {"max_tokens": 20, "stop": ["22"], "include_stop_str_in_output": True},
    "filtered": {"n": 3, "max_tokens": 9, "top_k": 3, "temperature": 0.7},
    "by id": {"n": 2, "max_tokens": 9, **BY_TOKEN},
}


def joined(chunks, field):
    """For each choice all the values that ``field(choice)`` had, one after the other."""
    pieces = [(choice["index"], field(choice)) for chunk in chunks for choice in chunk["choices"]]
    pieces.sort(key=lambda piece: piece[0])
    return [[value for _, values in group for value in values] for _, group in groupby(pieces, key=lambda p: p[0])]


def both(client, path, request):
    whole = client.post(path, request)
    assert whole.status == 200, whole.body
    options = {"include_usage": True, "continuous_usage_stats": True}
    return whole.json, client.post(path, {**request, "stream": True, "stream_options": options}).events


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("echo", [False, True])
def test_streamed_completions_tell_of_tokens_what_whole_ones_do(client, name, echo):
    request = {"prompt": [PROMPT, "5 + 17"], "seed": 3, "logprobs": 2, "echo": echo, **REQUESTS[name]}
    whole, chunks = both(client, "/v1/completions", request)
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        said = joined(chunks, lambda choice, field=field: (choice["logprobs"] or {}).get(field, []))
        assert said == [choice["logprobs"][field] for choice in whole["choices"]]
    assert joined(chunks, lambda choice: [choice["text"]] if choice["text"] else []) and [
        "".join(texts) for texts in joined(chunks, lambda choice: [choice["text"]])
    ] == [choice["text"] for choice in whole["choices"]]
    if "return_token_ids" in request:
        for field in ("token_ids", "prompt_token_ids"):
            assert joined(chunks, lambda choice, field=field: choice.get(field, [])) == [
                choice[field] for choice in whole["choices"]
            ]
        assert whole["choices"][0]["logprobs"]["tokens"][-1] == f"token_id:{whole['choices'][0]['token_ids'][-1]}"


@pytest.mark.parametrize("name", REQUESTS)
def test_streamed_chats_tell_of_tokens_what_whole_ones_do(client, name):
    request = {"messages": CHAT, "seed": 3, "logprobs": True, "top_logprobs": 2, **REQUESTS[name]}
    whole, chunks = both(client, "/v1/chat/completions", request)
    said = joined(chunks, lambda choice: choice["logprobs"]["content"])
    assert said == [choice["logprobs"]["content"] for choice in whole["choices"]]
    assert all(len(entry["top_logprobs"]) == 2 for entry in said[0])
    texts = joined(chunks, lambda choice: [choice["delta"].get("content", "")])
    assert ["".join(each) for each in texts] == [choice["message"]["content"] for choice in whole["choices"]]
    if "return_token_ids" in request:
        assert joined(chunks, lambda choice: choice["token_ids"]) == [c["token_ids"] for c in whole["choices"]]
        assert [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk] == [
            whole["prompt_token_ids"]
        ]


def test_every_chunk_counts_what_was_used_so_far(client):
    whole, chunks = both(client, "/v1/completions", {"prompt": PROMPT, "seed": 1, "n": 2, "max_tokens": 8})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == counts[-2] == whole["usage"]["completion_tokens"]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {whole["usage"]["prompt_tokens"]}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"stop": ["22\n", "never \x00"]}])
def test_where_ends_are_ignored_every_token_has_a_chunk(client, model, path, more):
    """Also those without text: the end token, which benchmarks have drawn past."""
    asked = {"prompt": PROMPT} if path == "/v1/completions" else {"messages": CHAT}
    [end] = model.loaded.tokenizer.eos_ids
    options = {"logit_bias": {str(end): 3}, "ignore_eos": True, "max_tokens": 40, "seed": 1, **more}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.post(path, {**asked, **options, **stream}).events
    growing = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"] is None]
    assert len(growing) == last["usage"]["completion_tokens"] > 0
    texts = [choice["text"] if "text" in choice else choice["delta"]["content"] for choice in growing]
    assert "" in texts, "no token was without text: this proves nothing"
    assert len(chunks) - len(growing) == options.get("n", 1)


def test_cached_tokens_are_those_that_were_not_computed(client, model):
    prompt = "compute 17 + 5 and compute 17 + 5 and compute 17 + 5 "
    count = len(model.loaded.tokenizer.encode(prompt))
    asked = {"prompt": prompt, "max_tokens": 1}
    first, again = (client.post("/v1/completions", asked).json["usage"] for _ in range(2))
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in (first, again)]
    assert cached[0] < cached[1] < count and cached[1] >= count // 16 * 16 - 16
    scored = client.post("/v1/completions", {**asked, "prompt": prompt + "!?", "echo": True, "logprobs": 1}).json
    assert 0 <= scored["usage"]["prompt_tokens_details"]["cached_tokens"] <= scored["usage"]["prompt_tokens"]


def test_token_lists_are_echoed_and_scored_as_evaluations_ask(client, model):
    tokenizer = model.loaded.tokenizer
    prompts = [tokenizer.encode(PROMPT), tokenizer.encode("5 + 17 = 22\n")]
    request = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    answer = client.post("/v1/completions", request).json

    async def directly(tokens):
        async with await model.session().root(tokens[:1]) as root:
            return await root.score_top(tokens[1:], 1)

    for choice, prompt in zip(answer["choices"], prompts, strict=True):
        found, scored = choice["logprobs"], asyncio.run(directly(prompt))
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        assert found["token_logprobs"][1 : len(prompt)] == pytest.approx([value for value, _ in scored])
        likeliest = [next(iter(top)) for top in found["top_logprobs"][1 : len(prompt)]]
        assert likeliest == [tokenizer.token_bytes(top[0][0]).decode() for _, top in scored]
        assert len(found["tokens"]) == len(prompt) + 1
    only = client.post("/v1/completions", {**request, "max_tokens": 0}).json
    assert [len(c["logprobs"]["tokens"]) for c in only["choices"]] == [len(p) for p in prompts]
    assert only["usage"]["completion_tokens"] == 0


def test_the_openai_client_streams_log_probabilities(client, model):
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
    asked = {"model": model.name, "messages": CHAT, "seed": 2, "max_completion_tokens": 6, "logprobs": True}
    whole = api.chat.completions.create(**asked).choices[0].logprobs
    told = [chunk.choices[0].logprobs for chunk in api.chat.completions.create(**asked, stream=True)]
    assert [entry for logprobs in told for entry in logprobs.content] == whole.content


async def test_our_own_client_finds_token_ids_here_and_the_laws_hold(waiting, endless):
    with outthink.connect(f"http://127.0.0.1:{waiting.port}/v1", chat=False, parameters=1e6) as remote:
        route = remote.capabilities.completions
        assert route.token_ids and route.echoes and route.seeds and route.stops and route.many and route.caches
        assert route.stream["stream_options"]["continuous_usage_stats"] and route.top == 20
        # What is in no full page is computed again for the next request, and billed again.
        kept = [law for law in laws_of(remote) if law is not budgets_are_charged_once]
        assert len(kept) >= len(LAWS) - 2
        await check_lm(remote.session, "17", max_tokens=3, laws=kept)
        async with await remote.session(sampling=outthink.Sampling(seed=5)).root(PROMPT) as root:
            [line] = await root.extend(1, outthink.Until(6))
            scored = await root.score(list(line.tokens))
            assert scored == pytest.approx(list(line.log_probs), abs=1e-4)
            tokenizer = endless.loaded.tokenizer
            assert [tokenizer.token_bytes(t).decode() for t in line.tokens] == line.text.splitlines(keepends=True)
