"""A test for each class of hole that other servers had, where no other file here has one; see docs/security.md."""

import ast
import asyncio
import hmac
import itertools
import json
import re
import socket
import tracemalloc
from pathlib import Path

import pytest

import outthink
from cli.tiny_model import PROBLEM
from outthink.core.errors import CheckpointError, OutthinkError, PromptError
from outthink.core.posterior import Posterior
from outthink.core.sampling import Sampling
from outthink.lm.local import LONG_PROMPT
from outthink.models.chat import ChatTemplate
from outthink.reason import STRATEGIES
from outthink.serve.app import PAGE, make_app
from outthink.serve.config import ServeConfig
from outthink.serve.failures import ApiError, as_api_error
from outthink.serve.schema import Thinking
from outthink.serve.service import MAX_CHARS_PER_TOKEN
from outthink.serve.thinking import deliberate, plan_of
from outthink.show.page import ASSETS
from outthink.tasks import families
from outthink.verify.unit_tests import UnitTests
from serve_world import Client, served, until

SOURCE = Path(outthink.__file__).parent
KEYS = ("first-key-of-two", "second-key-of-two", "a-third-that-is-far-longer-than-the-others")
CHAT = [{"role": "user", "content": PROBLEM}]


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_compared_whole_all_of_them_and_at_one_length(model, monkeypatch):
    compared = []
    real = hmac.compare_digest

    def compare(a, b):
        compared.append((a, b))
        return real(a, b)

    with served(model, api_keys=KEYS) as client:
        monkeypatch.setattr("outthink.serve.guard.hmac.compare_digest", compare)
        for key, status in ((KEYS[0], 200), (KEYS[2], 200), ("x", 401), ("", 401), ("x" * 4000, 401)):
            compared.clear()
            assert Client(client.port, key).get("/v1/models").status == status
            assert len(compared) == len(KEYS)
            assert {len(side) for pair in compared for side in pair} == {64}
            assert not any(known.encode() in pair for pair in compared for known in KEYS)


def test_no_key_is_held_where_tenants_are_named(model, tmp_path):
    with served(model, api_keys=KEYS, database=f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        client.post("/v1/solves", {"problem": PROBLEM, "thinking": {"budget": 100}})
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert PROBLEM.encode() in written and not any(key.encode() in written for key in KEYS)


# ---- numbers and sizes ---------------------------------------------------------------------------------------------


def faults(shape, schemas, where, seen=()):
    """Where a schema allows a number, a text, a list or an object without an end."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return [] if name in seen else faults(schemas[name], schemas, where, (*seen, name))
    found = []
    kind = shape.get("type")
    bounded = "enum" in shape or "const" in shape
    if kind in ("integer", "number") and not bounded:
        low, high = {"minimum", "exclusiveMinimum"} & shape.keys(), {"maximum", "exclusiveMaximum"} & shape.keys()
        found += [] if low and high else [where]
    if kind == "string" and not bounded and "maxLength" not in shape and shape.get("format") != "binary":
        found += [where]
    if kind == "array" and "maxItems" not in shape:
        found += [where]
    if kind == "object" and shape.get("additionalProperties", True) is not False and "maxProperties" not in shape:
        found += [where]
    for name, inner in shape.get("properties", {}).items():
        found += faults(inner, schemas, f"{where}.{name}", seen)
    inside = [*shape.get("anyOf", ()), *shape.get("allOf", ()), *shape.get("oneOf", ())]
    inside += [shape[name] for name in ("items", "additionalProperties") if isinstance(shape.get(name), dict)]
    return found + [fault for inner in inside for fault in faults(inner, schemas, where, seen)]


OPEN_ENDED = {
    # A JSON schema of the client's: its size, nesting and cost are limited where it is read, serve/formats.py.
    "schema", "guided_json", "json", "guided_grammar", "json_schema",
}  # fmt: skip


def test_every_number_text_and_list_that_a_client_sends_has_an_end(model):
    document = make_app(model, ServeConfig()).app.openapi()
    schemas = document["components"]["schemas"]
    found = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if not path.endswith("/files"):  # a form, bounded by its bytes
                    found += faults(content["schema"], schemas, path)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "query":
                    found += faults(parameter["schema"], schemas, f"{path}?{parameter['name']}")
    assert [fault for fault in found if fault.rpartition(".")[2] not in OPEN_ENDED] == []


def test_a_shape_without_an_end_is_noticed():
    assert faults({"type": "integer", "minimum": 0}, {}, "n") == ["n"]
    assert faults({"anyOf": [{"type": "array", "items": {"type": "string"}, "maxItems": 2}]}, {}, "n") == ["n"]
    assert faults({"type": "object", "additionalProperties": {"type": "null"}}, {}, "n") == ["n"]


EXTREMES = (-(2**63), -1, 0, 2**31, 2**63 - 1, 2**64, 10**30)


@pytest.mark.parametrize(
    "field",
    ["n", "max_tokens", "logprobs", "top_k", "best_of", "seed", "stop_token_ids", "logit_bias", "min_tokens",
     "priority", "prompt_logprobs", "n_discard"],
)  # fmt: skip
def test_extreme_numbers_are_refused_or_harmless(client, field):
    for value in EXTREMES:
        sent = [value] if field == "stop_token_ids" else {str(value): 1} if field == "logit_bias" else value
        answer = client.post("/v1/completions", {"prompt": "x", "max_tokens": 1} | {field: sent})
        assert answer.status in (200, 400)
        if abs(value) > 2**32 and field != "seed":
            assert answer.status == 400, (field, value)


def test_text_that_could_never_fit_is_not_tokenised(client, model, monkeypatch):
    longest = model.engine.max_positions * MAX_CHARS_PER_TOKEN
    tokenizer = model.loaded.tokenizer
    real, lengths = tokenizer.encode, []
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, *more, **named: lengths.append(len(text)) or real(text, *more, **named)
    )
    text = "x" * (longest + 1)
    chat = {"messages": [{"role": "user", "content": text}]}
    for path, body in [
        ("/v1/completions", {"prompt": text}),
        ("/v1/chat/completions", chat),
        ("/v1/responses", {"input": text}),
        ("/v1/embeddings", {"input": [text]}),
        ("/tokenize", {"prompt": text}),
        ("/v1/solves", {"problem": text}),
        *(
            (path, {**said, "thinking": {"budget": 100, **judged}, "stream": stream})
            for path, said in (("/v1/chat/completions", chat), ("/v1/responses", {"input": text}))
            for judged in ({}, {"strategy": "best-of-n", "verifier": "self-evaluation"})
            for stream in (False, True)
        ),
    ]:
        assert client.post(path, body).status == 400, (path, body.keys())
    assert all(length <= longest for length in lengths)
    assert client.post("/tokenize", {"prompt": "x" * longest}).json["count"] == longest and max(lengths) == longest


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/solves"])
def test_long_texts_are_never_tokenised_on_the_event_loop(waiting, endless, monkeypatch, path):
    """Whoever asks for thought with one would keep everybody else waiting for that time."""
    tokenizer, text = endless.loaded.tokenizer, "x" * LONG_PROMPT
    real, loops = tokenizer.encode, []

    def encode(read, *more, **named):
        if len(read) >= LONG_PROMPT:
            loops.append(asyncio._get_running_loop())
        return real(read, *more, **named)

    monkeypatch.setattr(tokenizer, "encode", encode)
    said = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"input": text}
    said = {"problem": text} if "solves" in path else said
    options = {"strategy": "greedy", "budget": LONG_PROMPT + 200, "options": {"max_tokens": 2}}
    told = waiting.post(path, {**said, "thinking": options})
    assert told.status in (200, 202), told.body
    if told.status == 202:
        until(lambda: waiting.get(f"/v1/solves/{told.json['id']}").json["status"] == "done")
    assert len(loops) >= 2 and set(loops) == {None}  # to see whether it fits, and to think about it


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("tokens", [[104], [2**23], [0, 103, 104]])
def test_token_ids_beyond_the_vocabulary_reach_no_model(client, path, tokens):
    assert client.post(path, {"prompt" if path.endswith("ns") else "input": tokens}).status == 400


def test_the_bodies_of_all_requests_together_are_bounded(model):
    with served(model, max_running=1, max_body=1 << 16, max_file=1) as client:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raws = []
        try:
            statuses = []
            for _ in range(2):  # of which one is about to send the last byte, when the other comes
                raws.append(socket.create_connection(("127.0.0.1", client.port), timeout=60))
                raws[-1].sendall(head + b"Content-Length: 60000\r\n\r\n" + b" " * 59_999)
            statuses.append(raws[1].recv(12)[9:])
            assert statuses == [b"503"]
            assert client.get("/health").status == 200
        finally:
            for raw in raws:
                raw.close()
        body = b" " * 40_000 + json.dumps({"prompt": "x", "max_tokens": 1}).encode()
        while client.send("POST", "/v1/completions", body).status == 503:  # until the server saw that they left
            pass


def test_no_problem_is_read_in_a_text_that_is_none(monkeypatch):
    """Patterns of families take their time with what was made for them: spaces after "bfs" took 97 seconds once."""
    asked = []
    monkeypatch.setattr(families, "get_family", lambda name: asked.append(name))
    assert families.read_problem("bfs" + " " * 260_000) is None and families.read_problem("9" * 5000) is None
    assert asked == []


def test_every_family_survives_what_was_made_of_its_own_problems():
    for name in families.FAMILIES.usable():
        prompt = families.get_family(name).generate(1, 0.5).prompt
        for changed in (
            re.sub(r"\d+", "9" * 3000, prompt, count=1), re.sub(r"\d+", "0", prompt), prompt.replace(" ", "\t" * 50),
            prompt.replace(",", ",,"), prompt * 5, prompt[: len(prompt) // 2], "9" * families.MAX_PROMPT,
        ):  # fmt: skip
            families.read_problem(changed[: families.MAX_PROMPT])


# ---- options of strategies -----------------------------------------------------------------------------------------


def extremes(default):
    numbers = [4096, -4096, 0, 1e6, -1e6, 1.5]
    return [*numbers, True, "x", None] if not isinstance(default, bool) else [4096, "x", None]


def test_options_of_the_wrong_kind_are_refused_before_anything_runs():
    refused = 0
    for method in STRATEGIES:
        for name, default in method.options.items():
            for value in extremes(default):
                kind = type(default)
                if isinstance(default, int | float | str) and isinstance(value, str) != isinstance(default, str):
                    with pytest.raises(OutthinkError):
                        method.check_options({name: value})
                    refused += 1
                elif kind is int and isinstance(value, float):
                    with pytest.raises(OutthinkError, match=r"kind|whole number"):
                        method.check_options({name: value})
                    refused += 1
            method.check_options({name: default})
    assert refused > 400


def runs(model, pairs):
    """Run each (strategy, options) under a budget of 300 tokens; what a client would be answered, where not 200."""
    import asyncio

    app = make_app(model, ServeConfig())
    service = app.app.state.service

    async def one(strategy, options):
        plan = plan_of(Thinking(strategy=strategy, budget=300, verifier="exact", options=options))
        assert plan is not None
        *_, posterior = [found async for found in deliberate(service, "", CHAT, plan, Sampling(seed=1))]
        assert isinstance(posterior, Posterior) and posterior.cost.tokens <= 300

    answers = []
    for strategy, options in pairs:
        try:
            asyncio.run(one(strategy, options))
        except (ApiError, OutthinkError) as error:
            answers.append(as_api_error(error).status)
    assert not model.thread.call(model.engine.scheduler.leases)
    return answers


def test_no_product_of_options_goes_round_the_budget(model):
    """Every count of a strategy at its most, at once; nothing is made that the budget does not pay for."""
    pairs = [
        (m.name, {k: 4096 for k, v in m.options.items() if isinstance(v, int) and not isinstance(v, bool)})
        for m in STRATEGIES
        if m.name in ("mcts", "step-beam", "particle-filter", "a-star")
    ]
    tracemalloc.start()
    try:
        assert set(runs(model, pairs)) <= {400}
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_no_option_of_any_strategy_at_its_extremes_is_a_fault_of_the_server(model):
    pairs = [(m.name, {k: x}) for m in STRATEGIES for k, v in m.options.items() for x in extremes(v)]
    pairs += [(m.name, {"max_tokens": 1}) for m in STRATEGIES]
    assert set(runs(model, pairs)) <= {400}


# ---- code, files and addresses -------------------------------------------------------------------------------------


HINTS = (
    r"pickle|dill|marshal|shelve|joblib|zmq|trust_remote_code|shell|\beval\b|\bexec\b|\bcompile\b|\.load\(|os\.system"
)


def harms(tree):
    """What executes or unpickles what it is given, by line."""
    names = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "zmq"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.partition(".")[0] in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in names:
            yield node.lineno, node.module
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle", "shell"):
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield node.value.lineno, node.arg
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "compile", "torch.load", "yaml.load", "os.system", "np.load", "numpy.load"):
                named = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if not (called.endswith(".load") and named.get("allow_pickle") == "False"):
                    yield node.lineno, called


def test_nothing_that_is_given_to_us_is_executed_or_unpickled():
    found = {}
    for file in SOURCE.rglob("*.py"):
        if not re.search(HINTS, text := file.read_text()):
            continue
        for line, what in harms(ast.parse(text)):
            found.setdefault(str(file.relative_to(SOURCE)), []).append((line, what))
    # The program that runs in the sandbox, where a model's code is meant to run; and drivers of peers' own programs.
    allowed = {"verify/unit_tests.py"}
    assert {name for name in found if not name.startswith("bench/engine/drivers/")} <= allowed, found


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "torch.load(f)", "eval(x)", "run(x, shell=True)", "np.load(f)",
     "f(trust_remote_code=flag)", "np.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_the_gate_sees_what_it_should(code):
    assert list(harms(ast.parse(code))) and not list(harms(ast.parse("np.load(f, allow_pickle=False)")))


def test_no_request_makes_the_server_open_an_address_or_a_file(client, model, tmp_path):
    """Every place where a name could stand for one; whoever connects to the listener would be heard."""
    private = tmp_path / "private"
    private.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        for name in (url, "file:///etc/passwd", "/etc/passwd", "../../../etc/passwd", str(private), "..\\..\\x"):
            picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": name}}]}
            for path, body in (
                ("/v1/chat/completions", {"messages": [picture]}),
                ("/v1/chat/completions", {"messages": CHAT, "model": name}),
                ("/v1/chat/completions", {"messages": CHAT, "chat_template": name}),
                ("/v1/chat/completions", {"messages": CHAT, "tools": [{"type": "function", "url": name}]}),
                ("/v1/completions", {"prompt": "x", "model": name}),
                ("/v1/embeddings", {"input": "x", "model": f"{name}:x"}),
                ("/v1/solves", {"problem": PROBLEM, "thinking": {"strategy": name}}),
                ("/v1/solves", {"problem": PROBLEM, "thinking": {"strategy": f"two-models(second={name})"}}),
                ("/v1/solves", {"problem": PROBLEM, "thinking": {"verifier": f"prm:{name}"}}),
                ("/v1/batches", {"input_file_id": name, "endpoint": "/v1/solves", "completion_window": "24h"}),
                ("/v1/batches", {"input_file_id": "x", "endpoint": name, "completion_window": "24h"}),
            ):
                assert 400 <= client.post(path, body).status < 500, (path, body)
            think = {"strategy": "two-models", "options": {"second": name}, "budget": 100}
            assert client.post("/v1/chat/completions", {"messages": CHAT, "thinking": think}).status == 400
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("name", ["../../etc/passwd", "x\r\nSet-Cookie: a=b", "a\x00.jsonl", "/etc/passwd", '"; x="'])
def test_the_name_of_an_upload_is_a_text_and_no_path(client, name):
    boundary = b"----x"
    parts = b'--%s\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % boundary
    quoted = name.replace("\r\n", "%0D%0A").replace('"', "%22").encode()
    parts += b'--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n{}\r\n' % (boundary, quoted)
    told = client.send(
        "POST", "/v1/files", parts + b"--%s--\r\n" % boundary, {"Content-Type": "multipart/form-data; boundary=----x"}
    )
    assert told.status in (200, 400)
    if told.status == 200:
        got = client.get(f"/v1/files/{told.json['id']}/content")
        assert got.body == b"{}" and got.headers["content-type"] == "application/octet-stream"
        assert "set-cookie" not in {header.lower() for header in got.headers}


def test_no_code_of_a_client_is_run(client):
    """Examples in a problem would be, in a sandbox, by the verifier that `outthink solve` has for them."""
    problem = "Write double.\n>>> __import__('os').system('true')\n0\n>>> double(2)\n4\n"
    for route, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": problem}]}),
        ("/v1/solves", {"problem": problem}),
    ):
        for verifier in ("code", "product(code)", "staged(step-oracle, mixture(exact, code))"):
            told = client.post(route, {**body, "thinking": {"verifier": verifier, "budget": 200}})
            assert told.status == 400 and "runs what a client sends" in told.json["error"]["message"]


def test_a_session_of_a_megabyte_is_not_read(monkeypatch):
    monkeypatch.setattr("doctest.DocTestParser.get_examples", lambda *_: pytest.fail("it was read"))
    assert UnitTests.in_text(">>> f(1)\n1\n" * 90_000) is None


# ---- words that are not ours ----------------------------------------------------------------------------------------


def test_what_a_template_says_against_messages_names_no_file_of_ours():
    template = ChatTemplate("{{ messages[0]['content'] + 1 }}", "/srv/models/private/chat_template.jinja", {})
    with pytest.raises(PromptError) as raised:
        template.render(CHAT)
    told = as_api_error(raised.value)
    assert told.status == 400 and "private" not in told.message and "str" not in told.message.split()
    told = as_api_error(CheckpointError("Nothing at /srv/models/private: give ~/models/x or C-3/x; see a/b."))
    assert "private" not in told.message and "~/models" not in told.message and "C-3/x; see a/b" in told.message


def test_a_wrong_field_is_named_in_our_own_words(client):
    for body, param, says in (
        ({"prompt": "x", "n": "two"}, "n", "a whole number"),
        ({"prompt": "x", "temperature": -1}, "temperature", "at least 0"),
        ({"prompt": 5}, "prompt", "must be"),
        ({"prompt": "x", "strange": 1}, "strange", "not known"),
        ({"messages": [{"role": "robot"}]}, "messages.0.role", "'system'"),
        ({}, "prompt", "missing"),
    ):
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        error = client.post(path, body).json["error"]
        assert error["param"] == param and says in error["message"], error
        assert "Input should" not in error["message"] and "constrained" not in error["message"]


def test_what_libraries_raise_is_told_to_nobody():
    for error in (
        ValueError("secret"),
        KeyError("secret"),
        RuntimeError("secret"),
        ExceptionGroup("secret", [OSError()]),
    ):
        told = as_api_error(error)
        assert told.status == 500 and "secret" not in told.message
    raised = PromptError("The prompt cannot be read: secret at 0x7f00dead.")
    raised.__cause__ = ValueError("secret at 0x7f00dead")
    assert as_api_error(raised).message == "The prompt cannot be read."


# ---- the page -------------------------------------------------------------------------------------------------------

MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\.srcdoc|\beval\s*\("
    r"|new\s+Function|setAttribute\(\s*[\"'](?:on|href|src|style)|javascript:|setTimeout\(\s*[\"'`]"
)


def test_no_text_of_a_model_becomes_markup_or_code():
    scripts = [*PAGE.rglob("*.js"), *ASSETS.rglob("*.js")]
    assert len(scripts) > 3
    for file in scripts:
        found = [line for line in file.read_text().splitlines() if MARKUP.search(line)]
        assert not found, (file.name, found)
    for bad in ("x.innerHTML = t", 'e.setAttribute("onclick", t)', "eval (t)", "new Function(t)"):
        assert MARKUP.search(bad)


def test_the_policy_of_the_page_runs_no_script_but_its_own(client):
    for path in ("/", "/v1/models", "/no-such-path"):
        headers = {name.lower(): value for name, value in client.get(path).headers.items()}
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'" and "unsafe" not in headers["content-security-policy"]
        assert policy["base-uri"] == policy["frame-ancestors"] == policy["object-src"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    page = client.get("/").body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", page)


def test_only_loopback_and_its_own_names_are_answered_without_a_key(client):
    names = ["localhost", "127.0.0.1", "[::1]", "127.8.8.8", "LOCALHOST"]
    for name, port in itertools.product(names, ["", f":{client.port}"]):
        assert client.get("/v1/models", Host=name + port).status == 200
    for name in (
        "localhost.",
        "0.0.0.0",
        "[::]",
        "127.0.0.1.nip.io",
        "2130706433",
        "0x7f.1",
        "[::ffff:127.0.0.1]",
        "a@127.0.0.1",
    ):
        assert client.get("/v1/models", Host=name).status == 421, name


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
    ],
)
def test_what_pages_of_other_sites_fetch_is_refused(client, headers, status):
    assert client.get("/v1/models", **headers).status == status


def test_every_test_that_the_documentation_names_is_there():
    tests = Path(__file__).parents[1]
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (tests.parent / "docs" / "security.md").read_text())
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (tests / file).read_text()]
    assert missing == []
