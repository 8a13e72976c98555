"""What this server has no use for is refused by name; what asks for nothing, and what real clients send, is not."""

import openai
import pytest

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
REFUSED = {
    "tools": [TOOL],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "web_search_options": {"search_context_size": "low"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "verbosity": "high",
    "service_tier": "flex",
    "store": True,
    "prompt_cache_key": "k",
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": True},
    "documents": [{"text": "x"}],
    "echo": True,
    "add_special_tokens": True,
    "best_of": 3,
    "use_beam_search": True,
    "length_penalty": 1.5,
    "min_tokens": 4,
    "skip_special_tokens": False,
    "truncate_prompt_tokens": 5,
    "prompt_logprobs": 1,
    "allowed_token_ids": [1],
    "bad_words": ["x"],
    "logits_processors": ["os.system"],
    "guided_grammar": "x",
    "guided_decoding_backend": "outlines",
    "cache_salt": "x",
    "kv_transfer_params": {"a": 1},
    "vllm_xargs": {"a": 1},
    "mm_processor_kwargs": {"a": 1},
    "logprobs": 3,
    "no_such_option": None,
}
NEUTRAL = {
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "parallel_tool_calls": True,
    "modalities": ["text"],
    "verbosity": "medium",
    "service_tier": "auto",
    "store": False,
    "chat_template_kwargs": {},
    "documents": None,
    "echo": False,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "min_tokens": 0,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "truncate_prompt_tokens": None,
    "bad_words": [],
    "guided_decoding_backend": "auto",
    "response_format": {"type": "text"},
    "metadata": {"run": "1"},
    "safety_identifier": "somebody",
    "stream_options": None,
    "logit_bias": {},
    "stop": None,
    "n": 1,
}
CLIENTS = {
    "its_hub": {
        "messages": [*CHAT, {"role": "assistant", "content": "17 + 5 = 22\n"}],
        "extra_body": {"continue_final_message": True, "add_generation_prompt": False},
        "continue_final_message": True,
        "add_generation_prompt": False,
        "include_stop_str_in_output": True,
        "stop": "\n",
        "max_tokens": 5,
        "temperature": 0.8,
    },
    "an empty extra_body": {"extra_body": {}, "stop": ["\n", "x"], "max_tokens": 4},
    "optillm": {
        "messages": [{"role": "system", "content": "Think."}, {"role": "system", "content": "Twice."}, *CHAT],
        "n": 8,
        "max_completion_tokens": 4,
        "temperature": 1,
    },
    "many": {"n": 32, "max_completion_tokens": 3, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1},
    "a final assistant message": {"messages": [*CHAT, {"role": "assistant", "content": "17"}], "max_tokens": 3},
    "parts and names": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
            {"role": "user", "name": "Ada", "content": "compute 17 + 5"},
            {"role": "assistant", "content": "22", "tool_calls": None, "refusal": None, "annotations": []},
            {"role": "user", "content": "again"},
        ],
        "max_tokens": 3,
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(client, name):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1, name: REFUSED[name]})
    error = answer.json["error"]
    assert answer.status == 400 and error["param"] == name and name in error["message"], error


@pytest.mark.parametrize("name", ["web_search_options", "audio"])
def test_an_empty_object_is_no_way_round(client, name):
    """With OpenAI an empty one of these turns its feature on."""
    error = client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1, name: {}}).json["error"]
    assert error["param"] == name


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_asks_for_nothing_is_taken(client, name):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1, name: NEUTRAL[name]})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("name", CLIENTS)
def test_what_clients_put_on_the_wire_works(client, name):
    request = {"messages": CHAT, **CLIENTS[name]}
    answer = client.post("/v1/chat/completions", request)
    assert answer.status == 200, answer.body
    choices = answer.json["choices"]
    assert [choice["index"] for choice in choices] == list(range(request.get("n", 1)))
    limit = request.get("max_completion_tokens") or request["max_tokens"]
    assert len(choices) <= answer.json["usage"]["completion_tokens"] <= limit * len(choices)


def test_a_stop_string_is_part_of_the_text_where_that_is_asked_for(client):
    request = {"messages": CHAT, "seed": 1, "stop": ["\n"], "max_tokens": 5, "logit_bias": {"1": -100}}
    bare = client.post("/v1/chat/completions", request).json["choices"][0]["message"]["content"]
    kept = client.post("/v1/chat/completions", {**request, "include_stop_str_in_output": True}).json["choices"][0]
    assert kept["message"]["content"] == bare + "\n" and kept["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("sent", "contradicts"),
    [
        ({"extra_body": {"n": 2}, "n": 3}, "extra_body"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {}, "stream": False}, "stream_options"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ],
)
def test_contradictions_are_told(client, sent, contradicts):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, **sent})
    assert answer.status == 400 and contradicts in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "4", "tool_call_id": "c"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
    ],
)
def test_messages_that_are_not_text_are_refused(client, message):
    assert client.post("/v1/chat/completions", {"messages": [*CHAT, message]}).status == 400


def test_one_limit_may_have_both_of_its_names(client):
    limits = {"max_tokens": 1, "max_completion_tokens": 1}
    assert client.post("/v1/chat/completions", {"messages": CHAT, **limits}).status == 200


def test_the_template_writes_the_special_tokens_of_messages(client):
    told = client.post("/tokenize", {"messages": CHAT, "add_special_tokens": True})
    assert told.status == 400 and told.json["error"]["param"] == "add_special_tokens"
    plain = client.post("/tokenize", {"messages": CHAT}).json
    assert client.post("/tokenize", {"messages": CHAT, "add_special_tokens": False}).json == plain


@pytest.mark.parametrize(
    ("thinking", "says"),
    [
        ({"budget": 0}, "thinking.budget must be at least 1"),
        ({"budget": "x" * 101}, "thinking.budget must have at most 100 characters"),
        ({"budget": [1]}, "thinking.budget must be a text"),
    ],
)
def test_of_several_forms_the_nearest_is_told_of(client, thinking, says):
    error = client.post("/v1/chat/completions", {"messages": CHAT, "thinking": thinking}).json["error"]
    assert error["param"] == "thinking.budget" and error["message"].startswith(says)


def test_who_asks_for_a_head_alone_gets_it_or_is_told_what_to_ask(client):
    for path in ("/health", "/ready", "/version"):
        found = client.send("HEAD", path)
        assert found.status == 200 and found.body == b"" and int(found.headers["content-length"]) > 0
    for path in ("/v1/models", "/v1/solves/x/events", "/metrics"):
        found = client.send("HEAD", path)
        assert found.status == 405 and found.headers["allow"] == "GET"
    assert client.send("HEAD", "/no-such-path").status == client.send("HEAD", "/v1/completions").status == 404


@pytest.mark.parametrize("value", [True, "1", 1.5, [1]])
def test_numbers_are_numbers(client, value):
    assert client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": value}).status == 400


def test_the_openai_client_is_told_what_is_wrong(client, model):
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="calls no tools") as refused:
        api.chat.completions.create(model=model.name, messages=CHAT, tools=[TOOL])
    assert refused.value.param == "tools"
    with pytest.raises(openai.BadRequestError, match="calls no tools"):
        api.responses.create(model=model.name, input="x", tools=[{"type": "web_search"}])


@pytest.mark.parametrize("budget", ["0 tokens", "0", "0k", "0 flops", "0 s"])
def test_a_budget_of_nothing_is_refused(client, budget):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "thinking": {"budget": budget}})
    assert answer.status == 400 and answer.json["error"]["param"] == "thinking"


def test_a_solve_beyond_the_servers_budget_is_refused_before_it_is_queued(client):
    answer = client.post("/v1/solves", {"problem": "compute 1 + 2", "thinking": {"budget": 999_999_999}})
    assert answer.status == 400 and "above this server's" in answer.json["error"]["message"]


def test_a_stop_token_that_is_none_is_refused(client):
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "stop_token_ids": [99_999]})
    assert answer.status == 400 and "outside the vocabulary" in answer.json["error"]["message"]


def test_names_that_ask_for_what_there_is_not_are_refused(client, model):
    name = model.name
    assert client.get(f"/v1/models/{name}:mcts-8k").json["id"] == f"{name}:mcts-8k"
    assert client.get(f"/v1/models/{name}").json == client.get("/v1/models").json["data"][0]
    for path, status in ((f"{name}:", 400), (f"{name}:zzz-9q", 400), (f"{name}:mcts-0k", 400), ("", 404), ("x", 404)):
        assert client.get(f"/v1/models/{path}").status == status, path
    answer = client.post("/v1/chat/completions", {"messages": CHAT, "model": f"{name}:"})
    assert answer.status == 400 and answer.json["error"]["param"] == "model"


def test_unknown_parameters_of_a_query_are_refused_but_of_probes(client):
    assert client.get("/v1/solves?limit=1").status == 200
    answer = client.get("/v1/solves?limt=1")
    assert answer.status == 400 and answer.json["error"]["param"] == "limt"
    assert client.post("/v1/completions?x=1", {"prompt": "x", "max_tokens": 1}).status == 400
    assert client.get("/health?ts=1").status == client.get("/ready?ts=1").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, 200),
        ({"Content-Type": 'application/json; charset="utf-8"'}, 200),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 200),
    ],
)
def test_a_body_in_another_encoding_is_refused(client, headers, status):
    body = b'{"prompt": "x", "max_tokens": 1}'
    assert client.send("POST", "/v1/completions", body, headers).status == status
