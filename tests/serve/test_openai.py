"""The OpenAI API as its clients use it, against our own engine as the reference."""

import asyncio

import openai
import pytest

from outthink.core.sampling import Sampling, Until

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
UNENDING = {"1": -100}  # the end token is never drawn


async def grown(root, n, until):
    lines = await root.extend(n, until)
    for line in lines:
        await line.close()
    return lines


def test_models_are_listed_and_another_is_not_found(client, model):
    assert [entry["id"] for entry in client.get("/v1/models").json["data"]] == [model.name]
    answer = client.post("/v1/completions", {"model": "gpt-9", "prompt": "x"})
    assert answer.status == 404 and answer.json["error"]["param"] == "model"


def test_a_completion_is_what_the_engine_samples(client, model):
    answer = client.post(
        "/v1/completions", {"prompt": "compute 17 + 5", "n": 3, "seed": 5, "max_tokens": 12, "logprobs": 2}
    )
    assert answer.status == 200

    async def directly():
        lm = model.session(sampling=Sampling(seed=5, top_logprobs=2))
        async with await lm.root("compute 17 + 5") as root:
            return await grown(root, 3, Until(12))

    lines = asyncio.run(directly())
    for choice, line in zip(answer.json["choices"], lines, strict=True):
        assert choice["text"] == line.completion
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(list(line.log_probs))
        assert choice["finish_reason"] == line.finish
    usage = answer.json["usage"]
    assert usage["completion_tokens"] == sum(len(line.tokens) for line in lines)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_says_what_the_whole_answer_says(client):
    request = {"prompt": "compute 17 + 5", "n": 2, "seed": 3, "max_tokens": 20, "stop": ["22"]}
    whole = client.post("/v1/completions", request).json
    chunks = client.post(
        "/v1/completions", {**request, "stream": True, "stream_options": {"include_usage": True}}
    ).events
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert [texts[0], texts[1]] == [choice["text"] for choice in whole["choices"]]
    assert all("22" not in text for text in texts.values())
    assert chunks[-1]["choices"] == []
    counted = ("prompt_tokens", "completion_tokens")
    assert [chunks[-1]["usage"][name] for name in counted] == [whole["usage"][name] for name in counted]


def test_echoed_logprobs_are_the_scores_of_the_prompt(client, model):
    request = {"prompt": "compute 17 + 5", "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    found = client.post("/v1/completions", request).json["choices"][0]
    tokens = model.loaded.tokenizer.encode("compute 17 + 5", add_special_tokens=True)

    async def directly():
        async with await model.session().root(tokens[:1]) as root:
            return await root.score(tokens[1:])

    logprobs = found["logprobs"]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1 : len(tokens)] == pytest.approx(asyncio.run(directly()))
    assert all(len(top) == 1 for top in logprobs["top_logprobs"][1:])
    assert found["text"].startswith("compute 17 + 5")


def test_token_prompts_and_lists_of_prompts(client, model):
    tokens = model.loaded.tokenizer.encode("compute 17 + 5", add_special_tokens=True)
    one = client.post("/v1/completions", {"prompt": tokens, "seed": 1}).json["choices"]
    many = client.post("/v1/completions", {"prompt": [tokens, tokens], "seed": 1}).json["choices"]
    text = client.post("/v1/completions", {"prompt": "compute 17 + 5", "seed": 1}).json["choices"]
    assert one[0]["text"] == text[0]["text"]
    assert [choice["index"] for choice in many] == [0, 1]


def test_equal_prompts_at_once_share_one_prefill(client, model):
    prompt = "compute 17 + 5" * 6
    before = model.engine.stats.prefilled

    async def ask():
        api = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
        calls = [api.completions.create(model=model.name, prompt=prompt, max_tokens=2, seed=i) for i in range(32)]
        return await asyncio.gather(*calls)

    assert len(asyncio.run(ask())) == 32
    tokens = len(model.loaded.tokenizer.encode(prompt, add_special_tokens=True))
    # Each may compute what is in no full page again, and never the prompt.
    assert model.engine.stats.prefilled - before < tokens + 32 * 17


def test_the_openai_client_chats_and_streams(client, model):
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
    whole = api.chat.completions.create(
        model=model.name, messages=CHAT, seed=4, logit_bias=UNENDING, max_completion_tokens=9
    )
    stream = api.chat.completions.create(
        model=model.name, messages=CHAT, seed=4, logit_bias=UNENDING, max_completion_tokens=9, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 1
    answer = api.responses.create(model=model.name, input="compute 17 + 5", max_output_tokens=9)
    assert answer.output_text is not None and answer.usage is not None
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(
            model=model.name, messages=CHAT, tools=[{"type": "function", "function": {"name": "f"}}]
        )


def test_a_final_assistant_message_is_continued(client, model):
    begun = [*CHAT, {"role": "assistant", "content": "17 + 5 = 22\n"}]
    request = {"messages": begun, "continue_final_message": True, "add_generation_prompt": False, "temperature": 0}
    found = client.post("/v1/chat/completions", {**request, "max_tokens": 3, "extra_body": {}}).json
    tokenizer = model.loaded.tokenizer
    prompt = tokenizer.encode(tokenizer.render_chat(CHAT) + "17 + 5 = 22\n")

    async def directly():
        async with await model.session(sampling=Sampling(temperature=0)).root(prompt) as root:
            return await grown(root, 1, Until(3))

    assert found["choices"][0]["message"]["content"] == asyncio.run(directly())[0].completion


def test_embeddings_are_unit_vectors_in_both_encodings(client, model):
    import base64
    import struct

    plain = client.post("/v1/embeddings", {"input": ["compute 17 + 5", "x"]}).json["data"]
    packed = client.post("/v1/embeddings", {"input": "compute 17 + 5", "encoding_format": "base64"}).json["data"]
    vector = plain[0]["embedding"]
    assert len(vector) == model.loaded.config.hidden_size and sum(x * x for x in vector) == pytest.approx(1)
    read = struct.unpack(f"<{len(vector)}f", base64.b64decode(packed[0]["embedding"]))
    assert read == pytest.approx(vector, rel=1e-6)


def test_tokens_go_there_and_back(client):
    tokens = client.post("/tokenize", {"prompt": "compute 17 + 5"}).json["tokens"]
    assert client.post("/detokenize", {"tokens": tokens}).json["prompt"] == "compute 17 + 5"
    assert client.post("/tokenize", {"messages": CHAT}).json["count"] > len(tokens)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x", "unknown_option": 1},
        {"prompt": "x", "n": 0},
        {"prompt": "x", "n": 1 << 62},
        {"prompt": "x", "n": 1000},
        {"prompt": "x", "max_tokens": 1 << 40},
        {"prompt": "x", "temperature": -1},
        {"prompt": "x", "best_of": 4},
        {"prompt": "x", "logit_bias": {"a": 1}},
        {"prompt": "x", "logit_bias": {"99999999": 1}},
        {"prompt": "x", "suffix": "y"},
        {"prompt": "x", "stop": [""]},
        {"prompt": ""},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1 << 30]},
        {"prompt": [5_000_000]},
        {"prompt": [-1]},
        {"prompt": "x" * 5000},
        {"prompt": "\ud800"},
        {},
    ],
)
def test_what_cannot_be_done_is_refused_and_named(client, body):
    answer = client.post("/v1/completions", body)
    assert answer.status == 400 and answer.json["error"]["message"]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"prompt": NaN}', b"[" * 100_000, b'{"a":' + b"9" * 9000 + b"}"]
)
def test_bodies_that_are_no_request_are_refused(client, raw):
    answer = client.send("POST", "/v1/completions", raw)
    assert answer.status == 400 and "error" in answer.json
