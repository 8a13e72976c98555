"""optillm as a proxy between a client and our server: all that it asks for is answered."""

import os
import socket
import subprocess
import time

import httpx
import openai
import pytest

from clients.conftest import PATIENCE_S

pytestmark = pytest.mark.clients
CHAT = [{"role": "user", "content": "compute 12 + 7 * 5"}]


@pytest.fixture(scope="module")
def proxy(server, environment, tmp_path_factory):
    """The URL of the proxy."""
    directory = tmp_path_factory.mktemp("optillm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = environment("optillm")
    command = [python.parent / "optillm", "--host", "127.0.0.1", "--port", port, "--base-url", server.api]
    command += ["--model", "outthink-m", "--best-of-n", "3", "--mcts-simulations", "2"]
    variables = {**os.environ, "OPENAI_API_KEY": "none", "HOME": str(directory), "HF_HUB_OFFLINE": "1"}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=variables, cwd=directory)
    try:
        end = time.monotonic() + PATIENCE_S
        while not _answers(port):
            said = (directory / "log").read_text(errors="replace")[-3000:]
            assert process.poll() is None and time.monotonic() < end, f"optillm did not start:\n{said}"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("approach", ["bon", "mcts", "self_consistency"])
def test_its_approaches_run_through_our_server(server, proxy, approach):
    before = server.metrics()
    with openai.OpenAI(base_url=proxy, api_key="none", max_retries=0, timeout=300) as client:
        answer = client.chat.completions.create(model=f"{approach}-outthink-m", messages=CHAT)
    after = server.metrics()
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    assert after["request_success_total"] - before.get("request_success_total", 0) >= 3
    assert after.get("requests_failed_total", 0) == before.get("requests_failed_total", 0)
    server.wait_idle()


def test_a_stream_through_it(server, proxy):
    with openai.OpenAI(base_url=proxy, api_key="none", max_retries=0, timeout=300) as client:
        stream = client.chat.completions.create(
            model="self_consistency-outthink-m", messages=CHAT, stream=True, temperature=0.0
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text
