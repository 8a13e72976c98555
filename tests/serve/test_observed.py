"""What operators see: metrics that mean what their names say, request ids, logs without prompts, traces."""

import io
import json
import logging
import sys
import types

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from cli.tiny_model import PROBLEM
from outthink.core.errors import UserError
from outthink.serve import other_routes
from outthink.serve.logs import JsonLines, TextLines, set_up_logging
from outthink.serve.timing import Line, Timing
from outthink.serve.tracing import Tracing, open_tracing
from serve_world import served

UNENDING = {"1": -100}
SECRET = "my-secret-phrase"
# vLLM's, but for those of parts that this server has not: speculative decoding, LoRA.
NAMES = {
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries", "prefix_cache_hits",
    "num_preemptions", "prompt_tokens", "generation_tokens", "request_success", "iteration_tokens_total",
    "time_to_first_token_seconds", "time_per_output_token_seconds", "inter_token_latency_seconds",
    "request_time_per_output_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
    "request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds",
    "request_prompt_tokens", "request_generation_tokens", "request_params_n", "request_params_max_tokens",
    "cache_config_info",
}  # fmt: skip


def scrape(client):
    """Every sample by its name, and by its labels beside the model's name."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").body.decode()):
        for sample in family.samples:
            assert sample.labels["model_name"] == "tiny", sample
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k not in ("model_name", "le"))
            if "le" not in sample.labels or sample.labels["le"] == "+Inf":
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def gained(client, *requests):
    before = scrape(client)
    answers = [client.post(path, body) for path, body in requests]
    after = scrape(client)
    return {name: value - before.get(name, 0.0) for name, value in after.items()}, answers


def test_every_name_of_the_field_is_there(client):
    text = client.get("/metrics").body.decode()
    families = {family.name.removeprefix("vllm:") for family in text_string_to_metric_families(text)}
    assert families >= NAMES
    others = {name for name in families if not name.startswith("outthink:") and not name.endswith("_created")}
    assert others == NAMES  # what only we have is under our own name


def test_completions_are_counted_token_by_token(client, model):
    body = {"prompt": PROBLEM, "n": 3, "max_tokens": 5, "logit_bias": UNENDING, "seed": 1}
    got, [whole, streamed] = gained(client, ("/v1/completions", body), ("/v1/completions", {**body, "stream": True}))
    assert whole.status == streamed.status == 200
    prompt = whole.json["usage"]["prompt_tokens"]
    assert got["vllm:request_success_total{finished_reason=length}"] == 6
    assert got["vllm:prompt_tokens_total"] == got["vllm:request_prompt_tokens_sum"] == 2 * prompt
    assert got["vllm:generation_tokens_total"] == got["vllm:request_generation_tokens_sum"] == 30
    assert got["vllm:time_to_first_token_seconds_count"] == 2
    assert got["vllm:inter_token_latency_seconds_count"] == 2 * 3 * (5 - 1)
    assert got["vllm:time_per_output_token_seconds_count"] == got["vllm:inter_token_latency_seconds_count"]
    assert got["vllm:request_time_per_output_token_seconds_count"] == 6
    assert got["vllm:request_params_n_sum"] == 6 and got["vllm:request_params_max_tokens_sum"] == 10
    for name in ("queue_time", "prefill_time", "decode_time", "inference_time"):
        assert got[f"vllm:request_{name}_seconds_count"] == 2
    assert got["vllm:e2e_request_latency_seconds_count"] == 2
    assert got["outthink:decoded_tokens_total"] == 30


def test_the_latencies_of_a_request_add_up(client):
    got, _ = gained(client, ("/v1/completions", {"prompt": PROBLEM, "max_tokens": 9, "logit_bias": UNENDING}))
    queue, prefill, decode, inference = (
        got[f"vllm:request_{name}_seconds_sum"]
        for name in ("queue_time", "prefill_time", "decode_time", "inference_time")
    )
    assert prefill + decode == pytest.approx(inference)
    assert got["vllm:time_to_first_token_seconds_sum"] == pytest.approx(queue + prefill)
    assert got["vllm:inter_token_latency_seconds_sum"] == pytest.approx(decode)
    assert got["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(decode / 8)
    assert queue + inference <= got["vllm:e2e_request_latency_seconds_sum"]
    assert min(queue, prefill, decode) >= 0


def test_what_the_engine_did_is_counted(client, model):
    body = {"prompt": "compute 17 + 5" * 9, "max_tokens": 2, "logit_bias": UNENDING}
    cold, _ = gained(client, ("/v1/completions", body))
    before = model.engine.stats.positions
    warm, [answer] = gained(client, ("/v1/completions", body))
    cached = answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert warm["vllm:prefix_cache_hits_total"] == cached > cold["vllm:prefix_cache_hits_total"]
    assert warm["vllm:prefix_cache_queries_total"] == answer.json["usage"]["prompt_tokens"]
    assert warm["vllm:iteration_tokens_total_sum"] == model.engine.stats.positions - before > 0
    assert warm["vllm:iteration_tokens_total_count"] >= 2


def test_what_is_held_now_is_shown(waiting, endless):
    job = waiting.post("/v1/solves", {"problem": PROBLEM, "thinking": {"budget": 250_000}}).json
    told = {}
    while not told.get("vllm:kv_cache_usage_perc"):
        told = {
            s.name: s.value
            for f in text_string_to_metric_families(waiting.get("/metrics").body.decode())
            for s in f.samples
        }
    assert 0 < told["vllm:kv_cache_usage_perc"] <= 1 and told["outthink:num_sequences_running"] > 0
    waiting.send("DELETE", f"/v1/solves/{job['id']}")


def test_preemptions_are_counted(make_tiny_model):
    from outthink.serve.gate import Gate
    from outthink.serve.metrics import Metrics

    model = make_tiny_model(pages=24)
    metrics = Metrics(model.thread, Gate(1, 1), "tiny")

    async def crowd():
        from outthink.core.sampling import Until

        async with await model.session().root("some text to go on from") as root:
            for line in await root.extend(12, Until(60)):
                await line.close()

    import asyncio

    asyncio.run(crowd())
    counted = next(
        line for line in metrics.text().decode().splitlines() if line.startswith("vllm:num_preemptions_total")
    )
    assert float(counted.split()[-1]) == model.engine.scheduler.num_preemptions > 0


def test_searches_and_their_judges_are_counted(client):
    thinking = {"strategy": "best-of-n", "verifier": "self-evaluation", "budget": 3000, "options": {"n": 4}}
    body = {"messages": [{"role": "user", "content": PROBLEM}], "thinking": thinking, "seed": 1}
    got, [answer] = gained(client, ("/v1/chat/completions", body))
    cost = answer.json["thinking"]["cost"]
    ended = answer.json["thinking"]["stopped"]
    assert got[f"outthink:solves_total{{ended={ended},strategy=best-of-n}}"] == 1
    assert got["outthink:verifier_tokens_total"] == cost["verifier_tokens"] > 0
    assert got["outthink:verifier_calls_total"] == cost["verifier_calls"] > 0
    assert got["outthink:search_tokens_total"] == cost["decoded"]
    usage = answer.json["usage"]
    winning = usage["completion_tokens"] - usage["completion_tokens_details"]["reasoning_tokens"]
    assert got["vllm:generation_tokens_total"] == winning
    assert got["outthink:solve_time_seconds_count"] == 1


def test_refusals_are_counted_by_status_wherever_they_are_made(client):
    before = scrape(client)
    client.post("/v1/completions", {"prompt": ""})
    client.get("/no-such-path")
    client.get("/v1/models", Host="evil.example")
    client.post("/v1/completions", {"prompt": "x", "stream": True, "n": 4096})
    after = scrape(client)
    counts = {
        status: after.get(f"outthink:requests_failed_total{{status={status}}}", 0.0) for status in (400, 404, 421)
    }
    assert [counts[s] - before.get(f"outthink:requests_failed_total{{status={s}}}", 0.0) for s in counts] == [2, 1, 1]


# ---- logs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log():
    """What is written from here on, in a format and with prompts or without; the loggers are put back afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()

    def start(form="json", log_prompts=False):
        set_up_logging(form, log_prompts, stream)
        return stream

    yield start
    root.handlers, root.level = before


def lines_of(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_has_one_id_in_its_answer_and_in_every_line_about_it(model, log):
    stream = log()
    with served(model) as client:
        given = client.post("/v1/completions", {"prompt": PROBLEM}, **{"X-Request-Id": "from-the-client.1"})
        made = client.post("/v1/completions", {"prompt": PROBLEM, "n": 0})
    ids = [{k.lower(): v for k, v in answer.headers.items()}["x-request-id"] for answer in (given, made)]
    assert ids[0] == "from-the-client.1" and len(ids[1]) == 24
    said = [line for line in lines_of(stream) if line["logger"] == "outthink.requests"]
    assert [(line["request_id"], line["status"], line["path"]) for line in said] == [
        (ids[0], 200, "/v1/completions"), (ids[1], 400, "/v1/completions"),
    ]  # fmt: skip
    assert all(line["seconds"] > 0 and line["level"] == "info" for line in said)


def secrets_sent(client):
    """Every way a client's words come in: whole, refused, in thought, in a path and in headers."""
    chat = [{"role": "user", "content": f"{SECRET} {PROBLEM}"}]
    client.post("/v1/completions", {"prompt": SECRET, "max_tokens": 1})
    client.post("/v1/completions", {"prompt": SECRET, SECRET: 1})
    client.post("/v1/chat/completions", {"messages": chat, "thinking": {"budget": 300}})
    client.post("/tokenize", {"prompt": SECRET})
    client.send("POST", "/v1/completions", f'{{"prompt": "{SECRET}'.encode())
    client.get("/v1/models", **{"X-Request-Id": f"{SECRET} with\tspaces", "User-Agent": SECRET})
    client.get(f"/v1/models?{SECRET}")


def test_what_clients_say_is_in_no_log_unless_asked_for(model, log, monkeypatch):
    def fail(*_):
        raise ValueError(f"cannot read {SECRET}")

    monkeypatch.setattr(other_routes, "mean_pooled", fail)
    stream = log()
    with served(model) as client:
        secrets_sent(client)
        failed = client.post("/v1/embeddings", {"input": SECRET})
    assert failed.status == 500 and SECRET not in failed.body.decode()
    assert SECRET not in stream.getvalue()
    [told] = [line for line in lines_of(stream) if line["logger"] == "outthink.serve" and "exception" in line]
    assert told["exception"][-1] == "ValueError" and any("in fail" in frame for frame in told["exception"])
    assert told["request_id"]


def test_what_clients_say_is_logged_where_asked_for(model, log, monkeypatch):
    stream = log(log_prompts=True)
    with served(model, log_prompts=True) as client:
        secrets_sent(client)
    bodies = [line["body"] for line in lines_of(stream) if "body" in line]
    assert len(bodies) == 5 and all(SECRET in body for body in bodies)


def test_no_line_of_the_log_can_be_forged():
    record = logging.makeLogRecord(
        {"name": "x", "msg": "a\nINFO forged", "path": "/\x1b[2J\r\n", "levelname": "INFO", "request_id": "i\u2028d"}
    )
    for form in (TextLines(), JsonLines()):
        line = form.format(record)
        assert len(line.splitlines()) == 1 and "\x1b" not in line and "forged" in line


def test_polls_do_not_fill_the_log(model, log):
    stream = log()
    with served(model) as client:
        for path in ("/health", "/metrics", "/ready", "/api/status"):
            assert client.get(path).status == 200
    assert "/metrics" not in stream.getvalue()


# ---- traces --------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, Tracing(provider.get_tracer("test"), provider)


def test_a_request_is_a_span_with_its_parts_below_it(model, spans):
    exporter, tracing = spans
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served(model, tracing=tracing) as client:
        body = {"prompt": SECRET, "max_tokens": 3, "logit_bias": UNENDING, "n": 2}
        client.post("/v1/completions", body, traceparent=parent, **{"X-Request-Id": "abc"})
        chat = [{"role": "user", "content": f"{SECRET} {PROBLEM}"}]
        client.post("/v1/chat/completions", {"messages": chat, "thinking": {"budget": 300}})
        client.post("/v1/completions", {"prompt": ""})
    done = exporter.get_finished_spans()
    roots = [span for span in done if span.kind.name == "SERVER"]
    below = {r: [s.name for s in done if s.parent and s.parent.span_id == r.context.span_id] for r in roots}
    assert [below[root] for root in roots] == [["queue", "prefill", "decode"], ["queue", "solve"], []]
    first, _, refused = roots
    assert f"{first.context.trace_id:032x}" == parent[3:35] and f"{first.parent.span_id:016x}" == parent[36:52]
    assert first.name == "POST /v1/completions" and first.attributes["outthink.request_id"] == "abc"
    assert (
        first.attributes["http.response.status_code"] == 200 and refused.attributes["http.response.status_code"] == 400
    )
    decode = next(span for span in done if span.name == "decode")
    assert decode.attributes == {"lines": 2, "tokens": 6}
    for root in roots:
        parts = [s for s in done if s.parent and s.parent.span_id == root.context.span_id]
        assert all(s.start_time <= s.end_time <= root.end_time + 50_000_000 for s in parts)
    assert SECRET not in "".join(span.to_json() for span in done)


def test_there_are_no_traces_unless_somebody_wants_them(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert open_tracing(asked=False) == Tracing()
    with Tracing().request("x", {}) as span:
        assert span is None
    Tracing().record("x", 0.0, 1.0)


def test_where_spans_go_is_for_the_environment_to_say(monkeypatch):
    """The exporter is one of the test's own; without any, an endpoint alone asks for nothing that is not installed."""
    exporter, module = InMemorySpanExporter(), "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, module, None)
    assert open_tracing(asked=False) == Tracing()
    with pytest.raises(UserError, match="pip install"):
        open_tracing(asked=True)
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(OTLPSpanExporter=lambda: exporter))
    tracing = open_tracing(asked=False)
    tracing.record("x", 1.0, 2.5, tokens=3)
    tracing.close()
    [span] = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == "outthink" and span.attributes == {"tokens": 3}
    assert span.end_time - span.start_time == pytest.approx(1.5e9, rel=1e-6)


def test_tokens_without_text_are_timed_too_and_those_of_a_call_share_its_time(client):
    body = {"prompt": PROBLEM, "n": 4, "max_tokens": 100, "ignore_eos": True, "seed": 2, "temperature": 3.0}
    got, [whole, streamed] = gained(client, ("/v1/completions", body), ("/v1/completions", {**body, "stream": True}))
    assert whole.status == streamed.status == 200
    assert got["vllm:inter_token_latency_seconds_count"] == 2 * 4 * 99


def test_tokens_that_come_together_took_equally_long(monkeypatch):
    clock, seen = iter([10.0, 10.4, 10.5]), []
    monkeypatch.setattr("outthink.serve.timing.time.monotonic", lambda: next(clock))
    observing = types.SimpleNamespace(observe=seen.append)
    metrics = types.SimpleNamespace(
        first_token=observing, between_tokens=observing, between_tokens_old=types.SimpleNamespace(observe=float)
    )
    timing = Timing(arrived=9.0)
    for count in (1, 4, 1):
        timing.drew(metrics, 0, 0, count)
    assert seen == pytest.approx([1.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert timing.lines[0, 0] == Line(10.0, 10.5, 6)
