"""``outthink serve``: every option does what its help says."""

import inspect
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

from cli.tiny_model import PROBLEM, make_model
from outthink.cli.app import app
from outthink.cli.serve import LogFormat, serve
from outthink.core.errors import UserError
from outthink.serve.config import ServeConfig
from outthink.serve.process import GracefulServer
from serve_world import Client, served

KEY = "a-key-of-some-length"
TOLD = {"host", "port", "served_name", "max_running", "max_waiting", "max_tokens", "deadline", "drain", "log_prompts",
        "database", "api_keys"}  # fmt: skip


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A function that runs ``outthink serve`` with options, but for the serving; the Guard that would have served."""
    directory = make_model(tmp_path / "tiny")
    seen = []

    def run(server, sockets):
        seen.append((server.config.app, sockets[0].getsockname(), server))
        server.started = True

    monkeypatch.setattr(GracefulServer, "run", run)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OUTTHINK_API_KEY", raising=False)

    def start(*options):
        seen.clear()
        result = CliRunner().invoke(app, ["serve", str(directory), *map(str, options)])
        assert result.exit_code == 0, result.output
        return seen[-1]

    return start


def test_options_reach_the_server(started, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\nanother-long-key\n")
    guard, (host, port), server = started(
        "--host", "127.0.0.3", "--port", 0, "--api-key-file", keys, "--name", "mine", "--max-running", 3,
        "--max-waiting", 5, "--max-tokens", 777, "--deadline", 8.5, "--drain", 2.5, "--log-prompts",
        "--database", f"sqlite:///{tmp_path / 'own.db'}",
    )  # fmt: skip
    found = {name: getattr(guard.config, name) for name in TOLD}
    assert found == {
        "host": "127.0.0.3", "port": 0, "served_name": "mine", "max_running": 3, "max_waiting": 5, "max_tokens": 777,
        "deadline": 8.5, "drain": 2.5, "log_prompts": True, "database": f"sqlite:///{tmp_path / 'own.db'}",
        "api_keys": (KEY, "another-long-key"),
    }  # fmt: skip
    assert host == "127.0.0.3" and port > 0 and (tmp_path / "own.db").is_file()
    assert guard.watch.log_prompts and server.config.limit_concurrency == 4 * (3 + 5)


def test_what_is_not_said_is_the_default(started, tmp_path):
    guard, (host, _port), _ = started("--port", 0)
    told = {name: getattr(guard.config, name) for name in TOLD - {"database", "port"}}
    assert told == {f.name: f.default for f in fields(ServeConfig) if f.name in told}
    assert (tmp_path / "home" / ".local" / "state" / "outthink" / "jobs.db").is_file() and host == "127.0.0.1"
    defaults = {n: p.default for n, p in inspect.signature(serve).parameters.items()}
    assert all(defaults[name] == getattr(ServeConfig(), name) for name in TOLD & defaults.keys() - {"database"})


def test_the_key_may_stand_in_the_environment(started, monkeypatch):
    monkeypatch.setenv("OUTTHINK_API_KEY", KEY)
    assert started("--port", 0, "--host", "0.0.0.0")[0].config.api_keys == (KEY,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0"), "API key"),
        (("--port", "70000"), "port"),
        (("--max-running", "0"), "max_running"),
        (("--max-waiting", "-1"), "max_waiting"),
        (("--max-tokens", "0"), "max_tokens"),
        (("--deadline", "0"), "deadline"),
        (("--deadline", "nan"), "deadline"),
        (("--drain", "-1"), "drain"),
        (("--drain", "inf"), "drain"),
        (("--database", "no-such-thing://x"), "database"),
        (("--api-key-file", "/no/such/file"), "API keys"),
        (("--backend", "no-such"), "backend"),
        (("--weights", "no-such"), "weights"),
        (("--device", "no-such"), "Device"),
        (("--dtype", "no-such"), "dtype"),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_served(tmp_path, monkeypatch, options, says):
    monkeypatch.delenv("OUTTHINK_API_KEY", raising=False)
    monkeypatch.setattr(GracefulServer, "run", lambda *_: pytest.fail("it served"))
    told = CliRunner().invoke(
        app, ["serve", str(make_model(tmp_path / "tiny")), "--port", "0", "--database", "sqlite://", *options]
    )
    assert told.exit_code == 2 or isinstance(told.exception, UserError)
    assert says in told.output + str(told.exception)


def test_otel_without_its_exporter_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    told = CliRunner().invoke(app, ["serve", str(make_model(tmp_path / "tiny")), "--port", "0", "--otel"])
    assert "outthink[otel]" in told.output + str(told.exception)


def test_every_option_has_a_help_of_its_own():
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    helps = [parameter.help for parameter in command.params if parameter.name != "help"]
    assert all(helps) and len(set(helps)) == len(helps)
    assert {f.value for f in LogFormat} == {"text", "json"}


def test_a_server_writes_its_log_as_asked_and_stops_when_told(tmp_path):
    """A process of its own, from its first line to its last."""
    (tmp_path / "keys").write_text(KEY)
    command = [
        sys.executable, "-m", "outthink", "serve", str(make_model(tmp_path / "tiny")), "--port", "0", "--name", "mine",
        "--api-key-file", str(tmp_path / "keys"), "--log-format", "json", "--log-prompts", "--backend", "reference",
        "--dtype", "float32", "--database", f"sqlite:///{tmp_path / 'jobs.db'}", "--drain", "20",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}) as process:
        assert process.stderr is not None
        heard = []
        while "http://" not in (line := process.stderr.readline()):
            assert line, heard
            heard.append(line)
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        client = Client(port, KEY)
        assert client.post("/v1/completions", {"prompt": PROBLEM, "max_tokens": 2}).json["model"] == "mine"
        assert Client(port).get("/v1/models").status == 401
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 0
    lines = [json.loads(line) for line in rest.splitlines()]
    done = [line for line in lines if line["message"] == "request"]
    assert [(line["status"], line["path"]) for line in done] == [(200, "/v1/completions"), (401, "/v1/models")]
    assert PROBLEM in done[0]["body"] and done[0]["tenant"] and (tmp_path / "jobs.db").is_file()


# ---- what the limits do ---------------------------------------------------------------------------------------------


def ask_slowly(client):
    """A connection on which an answer without end has begun."""
    body = json.dumps({"prompt": "x", "max_tokens": 100_000, "stream": True}).encode()
    raw = socket.create_connection(("127.0.0.1", client.port), timeout=60)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    raw.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert raw.recv(100)
    return raw


def test_the_queue_has_an_end(endless):
    with served(endless, max_running=1, max_waiting=0) as client, ask_slowly(client):
        told = client.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert told.status == 429 and told.headers["retry-after"].isdigit()


def test_a_deadline_ends_what_takes_longer(endless):
    with served(endless, deadline=0.2) as client:
        told = client.post("/v1/completions", {"prompt": "x", "max_tokens": 100_000})
        # What has begun is answered as far as it has come; what has not, with 504.
        assert told.status in (200, 504)
        if told.status == 200:
            assert told.json["choices"][0]["finish_reason"] == "length"
            assert told.json["usage"]["completion_tokens"] < 100_000
        else:
            assert told.json["error"]["code"] == "deadline"
    assert not endless.thread.call(endless.engine.scheduler.leases)


@pytest.mark.parametrize(
    ("more", "status"),
    [({"max_tokens": 90}, 200), ({"max_tokens": 100}, 400), ({"max_tokens": 30, "n": 4}, 400), ({"n": 5}, 400),
     ({"max_tokens": 20, "n": 4}, 200)],
)  # fmt: skip
def test_the_product_of_what_is_asked_for_is_bounded(model, more, status):
    with served(model, max_tokens=100, max_branches=4) as client:
        assert client.post("/v1/completions", {"prompt": "x", **more}).status == status
        thinking = {"budget": 101 if status == 400 else 99}
        chat = [{"role": "user", "content": PROBLEM}]
        assert client.post("/v1/chat/completions", {"messages": chat, "thinking": thinking}).status == status
