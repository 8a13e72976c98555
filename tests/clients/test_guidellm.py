"""guidellm makes load: nothing fails, and what it counts is what was asked for."""

import json

import pytest

import outthink
from clients.conftest import execute

pytestmark = pytest.mark.clients
STREAMS, REQUESTS, PROMPT, OUTPUT = 4, 24, 64, 16


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_load_is_served_without_errors(server, environment, tmp_path, route):
    with outthink.load() as model:
        source = model.loaded.source
    python = environment("guidellm")
    command = [
        python.parent / "guidellm", "run",
        "--backend", f"kind=openai_http,target={server.url},model=outthink-m,request_format={route}",
        "--tokenizer", f"kind=huggingface_auto,model={source}",
        "--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}",
        "--profile", f"kind=concurrent,streams={STREAMS}",
        "--constraint", f"kind=max_requests,count={REQUESTS}",
        "--seed", "kind=static,value=42",
        "--output", f"kind=json,path={tmp_path / 'report.json'}",
        "--disable-console-interactive",
    ]  # fmt: skip
    execute(command, tmp_path)
    [benchmark] = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (REQUESTS, 0, 0)
    found = benchmark["metrics"]
    assert found["output_token_count"]["successful"]["mean"] == OUTPUT
    assert found["time_to_first_token_ms"]["successful"]["mean"] > 0
    assert found["inter_token_latency_ms"]["successful"]["mean"] > 0
    server.wait_idle()
