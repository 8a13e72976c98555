"""What goes wrong around a server, one thing after the other: nothing is lost, nothing leaks, and others go on."""

import asyncio
import io
import json
import signal
import socket
import sqlite3
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

import outthink
from cli.tiny_model import make_model
from outthink.serve.completions import MOST_AT_ONCE, MOST_WAITING, Piece, Stream
from outthink.serve.database import BATCHES, SOLVES
from outthink.serve.delivery import PART_BYTES, EventStream
from postgres_world import postgres
from serve_process import server_process
from serve_world import Client, begin_request, served, until

CHAT = [{"role": "user", "content": "compute 17 + 5"}]
LONG = {"messages": CHAT, "max_tokens": 100_000}
OVER = ("completed", "failed", "cancelled", "expired")


def leases(model):
    return model.thread.call(model.engine.scheduler.leases)


def assert_free(model):
    """No page is held any more, soon, and none is lost."""
    until(lambda: not leases(model))
    model.thread.call(model.engine.check_integrity)


@contextmanager
def paused(model):
    """The engine stands still, so that what is in flight stays there."""
    reached, go_on = threading.Event(), threading.Event()
    model.thread.submit(lambda: (reached.set(), go_on.wait()))
    reached.wait()
    try:
        yield
    finally:
        go_on.set()


def batch_of(client, bodies):
    """A batch of chats, by the name of its rows."""
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
    url = "/v1/chat/completions"
    rows = [{"custom_id": n, "method": "POST", "url": url, "body": body} for n, body in bodies.items()]
    file = api.files.create(file=io.BytesIO("\n".join(map(json.dumps, rows)).encode()), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h").id


# ---- clients -------------------------------------------------------------------------------------------------------


def reset(raw):
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leave", [socket.socket.close, reset, lambda raw: raw.shutdown(socket.SHUT_WR)])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**LONG, "n": 2}),
        ("/v1/completions", {"prompt": ["compute 17 + 5", "x"], "max_tokens": 100_000}),
        ("/v1/responses", {"input": "compute 17 + 5", "max_output_tokens": 100_000}),
    ],
)
def test_a_client_that_leaves_frees_its_pages(waiting, endless, path, body, leave, stream):
    raw = begin_request(waiting, path, {**body, "stream": stream})
    until(lambda: leases(endless))
    leave(raw)
    assert_free(endless)
    assert waiting.state.service.gate.num_running == 0
    raw.close()


def test_one_that_leaves_while_it_waits_for_a_place_is_forgotten(endless):
    with served(endless, max_running=1) as client:
        first, second = (begin_request(client, "/v1/chat/completions", LONG) for _ in range(2))
        gate = client.state.service.gate
        until(lambda: gate.num_waiting == 1)
        second.close()
        until(lambda: gate.num_waiting == 0)
        first.close()
        assert_free(endless)


def test_a_slow_reader_misses_nothing_and_holds_up_nobody(waiting, endless):
    request = {"prompt": "compute 17 + 5", "n": 64, "max_tokens": 60, "seed": 1, "stream": True}
    with served(endless, send_buffer=4096) as client, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", client.port))
        data = json.dumps(request).encode()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)  # fmt: skip
        until(lambda: leases(endless))
        assert_free(endless)  # all is computed, and next to nothing read
        assert client.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status == 200
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    whole = waiting.post("/v1/completions", {**request, "stream": False}).json["choices"]
    texts = dict.fromkeys(range(64), "")
    lines = [line for line in answer.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1].strip() == b"data: [DONE]"
    for line in lines[:-1]:
        [choice] = json.loads(line[6:])["choices"]
        texts[choice["index"]] += choice["text"]
    assert [texts[choice["index"]] for choice in whole] == [choice["text"] for choice in whole]


async def test_what_waits_for_a_slow_reader_is_bounded_by_its_text():
    stream, texts = Stream(), {0: "", 1: ""}
    for number in range(20_000):
        stream.put(Piece(0, number % 2, f"{number} "))
        if number % 40 == 39:
            await asyncio.sleep(0)
    stream.put(None)
    await asyncio.sleep(0)
    assert len(stream.waiting) <= MOST_WAITING + 40
    while found := await stream.get():
        assert len(found) <= MOST_AT_ONCE
        for piece in found:
            texts[piece.index] += piece.text
    assert texts == {i: "".join(f"{n} " for n in range(i, 20_000, 2)) for i in (0, 1)}
    assert await stream.get() == []


async def test_one_that_reads_in_time_gets_each_piece_by_itself():
    stream, pieces = Stream(), []
    for number in range(2 * MOST_WAITING):
        stream.put(Piece(0, 0, f"{number} "))
        if number % 100 == 99:
            for _ in range(2):
                pieces += await stream.get()
    stream.put(None)
    while found := await stream.get():
        pieces += found
    assert [piece.text for piece in pieces] == [f"{number} " for number in range(2 * MOST_WAITING)]


async def test_events_that_come_together_are_written_together():
    sent = []

    async def events():
        yield []
        yield [{"a": 1}, {"a": 2}]
        yield [{"a": "x" * PART_BYTES}, {"a": 3}, {"a": 4}]

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await EventStream(events())({"type": "http", "state": {"request_id": "x"}}, receive, send)
    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    long = b'data: {"a":"' + b"x" * PART_BYTES + b'"}\n\n'
    two, rest = b'data: {"a":1}\n\ndata: {"a":2}\n\n', b'data: {"a":3}\n\ndata: {"a":4}\n\n'
    assert bodies == [two, long, rest, b"data: [DONE]\n\n"]


async def test_one_that_reads_nothing_is_given_up():
    ended = []

    async def events():
        try:
            while True:
                yield {"more": 1}
        finally:
            ended.append(True)

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await EventStream(events(), patience=0.05)({"type": "http", "state": {"request_id": "x"}}, receive, send)
    assert ended == [True]


async def test_one_with_much_to_send_hears_that_its_client_is_gone():
    sent = []

    async def events():
        for number in range(100_000):
            yield {"more": number}

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await EventStream(events())({"type": "http", "state": {"request_id": "x"}}, receive, send)
    assert len(sent) < 100


def test_a_cancelled_solve_frees_its_pages_whatever_the_database_says(endless, monkeypatch):
    monkeypatch.setattr("outthink.serve.jobs.NOTE_SECONDS", 0.1)
    with served(endless) as client:
        job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 250_000}}).json
        until(lambda: leases(endless))
        client.state.jobs.store.set = refusing(client.state.jobs.store.set)
        assert client.send("DELETE", f"/v1/solves/{job['id']}").status == 503
        assert_free(endless)
        client.state.jobs.store.set.refuses = False
        until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "cancelled")


# ---- what cannot fit -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with a long context and 64 pages of KV."""
    directory = make_model(tmp_path_factory.mktemp("served") / "small", ends=False, context=200_000)
    with outthink.load(directory, kv_gib=2**-13) as loaded:
        assert loaded.engine.cache.num_pages <= 64
        yield loaded


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x" * 1100}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 1100}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 1100}], "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 1100}], "thinking": {}}),
        ("/v1/responses", {"input": "x" * 1100}),
        ("/v1/embeddings", {"input": "x" * 1100}),
        ("/v1/solves", {"problem": "x" * 1100}),
    ],
)
def test_a_prompt_that_can_never_fit_is_refused_at_once(small, path, body):
    with served(small) as client:
        before = small.engine.stats.positions
        answer = client.post(path, body)
        assert answer.status == 400 and answer.json["error"]["message"], answer.body
        assert small.engine.stats.positions == before and not leases(small)


def test_a_tree_that_wants_all_pages_ends_whole_and_others_go_on(small, waiting):
    keys = ("first-key-of-two", "second-key-of-two")
    tree = {"prompt": "compute 17 + 5", "n": 64, "max_tokens": 80, "seed": 1}
    with served(small, api_keys=keys) as client, ThreadPoolExecutor(1) as beside:
        scheduler, other = small.engine.scheduler, Client(client.port, keys[1])
        asked = beside.submit(client.post, "/v1/completions", tree)
        assert 4 * small.engine.cache.num_pages < 64 * (80 // 16)
        until(lambda: scheduler.waiting or asked.done())
        for seed in range(3):
            assert other.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 20, "seed": seed}).status == 200
        found = asked.result().json["choices"]
        assert_free(small)
    assert [choice["text"] for choice in found] == [
        choice["text"]
        for choice in waiting.post("/v1/completions", tree).json["choices"]  # where there is room
    ]


def test_a_search_that_wants_all_pages_can_be_stopped_and_others_go_on(small):
    keys = ("first-key-of-two", "second-key-of-two")
    with served(small, api_keys=keys) as client:
        scheduler, other = small.engine.scheduler, Client(client.port, keys[1])
        thinking = {"strategy": "majority-vote", "budget": 200_000, "options": {"n": 64}}
        job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": thinking, "seed": 1}).json
        before = scheduler.num_preemptions
        until(lambda: scheduler.num_preemptions > before)
        for seed in range(3):
            assert other.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 20, "seed": seed}).status == 200
        assert client.get(f"/v1/solves/{job['id']}").json["status"] == "running"
        assert client.send("DELETE", f"/v1/solves/{job['id']}").json["status"] == "cancelled"
        assert_free(small)


# ---- the database --------------------------------------------------------------------------------------------------


def limit_pages(database, pages):
    """A disk that is full: SQLite says the same when no page can be added."""
    event.listen(database.connections, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    database.connections.dispose()


def refusing(call):
    """``call`` of a database that refuses until it is told otherwise."""
    from outthink.serve.database import StoreError

    def tried(*arguments):
        if tried.refuses:
            raise StoreError("full")
        return call(*arguments)

    tried.refuses = True
    return tried


def test_a_full_disk_costs_no_answer_and_no_result(model, tmp_path):
    with served(model, database=f"sqlite:///{tmp_path}/jobs.db") as client:
        database = client.state.jobs.store.database
        kept = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 300}}).json
        until(lambda: client.get(f"/v1/solves/{kept['id']}").json["status"] == "done")
        with paused(model):
            job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 4000}}).json
            until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "running")
            limit_pages(database, 1)
        until(lambda: client.state.jobs.running and not leases(model))
        for _ in range(3):
            big = client.post("/v1/solves", {"problem": "compute 17 + 5" + " " * 100_000})
            assert big.status in (400, 503)
        upload = b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--x\r\nContent-Disposition: " \
                 b"form-data; name=file; filename=a\r\n\r\n" + b"x" * 100_000 + b"\r\n--x--\r\n"  # fmt: skip
        refused = client.send("POST", "/v1/files", upload, {"Content-Type": "multipart/form-data; boundary=x"})
        assert refused.status == 503 and refused.json["error"]["code"] == "store_unavailable"
        assert client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 3}).status == 200
        assert client.get(f"/v1/solves/{kept['id']}").json["status"] == "done"
        assert client.get(f"/v1/solves/{job['id']}").json["status"] == "running"
        limit_pages(database, 1 << 20)
        until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "done")


def test_a_database_that_goes_away_costs_no_answer_and_no_result(model):
    with postgres() as server, served(model, database=server.url) as client:
        with paused(model):
            job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 400}}).json
            batch = batch_of(client, {f"row {i}": {"messages": CHAT, "max_tokens": 5} for i in range(3)})
            until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "running")
            until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "in_progress")
            server.stop()
        until(lambda: client.state.jobs.running and not leases(model))
        gone = client.get(f"/v1/solves/{job['id']}")
        assert gone.status == 503 and gone.headers.get("retry-after", gone.headers.get("Retry-After"))
        assert client.get("/v1/batches").status == client.get("/v1/solves").status == 503
        assert client.post("/v1/solves", {"problem": "compute 17 + 5"}).status == 503
        assert client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 3}).status == 200
        server.start()
        until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "done")
        until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "completed")
        assert client.get(f"/v1/batches/{batch}").json["request_counts"]["completed"] == 3


# ---- the process ---------------------------------------------------------------------------------------------------


def test_what_a_server_leaves_the_next_takes_up(endless, model, tmp_path):
    settings = {"database": f"sqlite:///{tmp_path}/jobs.db", "served_name": "m", "drain": 0.0}
    with served(endless, **settings) as client:
        job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 3000}}).json
        batch = batch_of(client, {"short": {"messages": CHAT, "max_tokens": 3}, "long": {"messages": CHAT}})
        until(lambda: client.get(f"/v1/batches/{batch}").json["request_counts"]["completed"] == 1)
    assert_free(endless)
    with served(model, **settings) as client:
        until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "completed")
        until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "done")


def test_what_kills_every_server_is_given_up(model, tmp_path):
    url, body = f"sqlite:///{tmp_path}/jobs.db", {"messages": CHAT, "max_tokens": 3}
    with served(model, database=url) as client, paused(model):
        job = client.post("/v1/solves", {"problem": "compute 17 + 5"}).json["id"]
        batch = batch_of(client, {"a": body})
        until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "in_progress")
        client.server.handle_exit(signal.SIGTERM, None)
        client.server.handle_exit(signal.SIGTERM, None)  # with both unfinished
        client.state.jobs.store.database.write(*(table.update().values(deaths=3) for table in (SOLVES, BATCHES)))
        until(lambda: not client.state.jobs.running)
    with served(model, database=url) as client:
        until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "failed")
        assert client.get(f"/v1/batches/{batch}").json["errors"]["data"][0]["code"] == "fatal"
        found = client.get(f"/v1/solves/{job}").json
        assert found["status"] == "failed" and found["error"]["code"] == "fatal"
        assert client.get("/ready").status == 200


def test_told_to_stop_it_finishes_what_is_in_flight_and_takes_nothing_new(model):
    with served(model) as client:
        with paused(model):
            raw = begin_request(client, "/v1/chat/completions", {"messages": CHAT, "max_tokens": 20, "stream": True})
            gate = client.state.service.gate
            until(lambda: gate.num_running == 1)
            client.server.handle_exit(signal.SIGTERM, None)
            until(lambda: gate.closing)
            for path, body in (("/v1/chat/completions", {"messages": CHAT}), ("/v1/solves", {"problem": "2 + 2"})):
                refused = client.post(path, body)
                assert refused.status == 503 and refused.json["error"]["code"] == "shutting_down"
            assert client.get("/ready").status == 503 and client.get("/health").status == 200
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer
        until(lambda: client.server.should_exit)
        assert client.server.forced_by is None


def test_the_time_to_finish_ends(endless):
    with served(endless, drain=0.1) as client:
        raw = begin_request(client, "/v1/chat/completions", {**LONG, "stream": True})
        until(lambda: leases(endless))
        client.server.handle_exit(signal.SIGTERM, None)
        until(lambda: client.server.should_exit)
    assert_free(endless)
    raw.close()


def test_told_twice_it_ends_now(endless):
    with served(endless, drain=3600.0) as client:
        raw = begin_request(client, "/v1/chat/completions", LONG)
        until(lambda: leases(endless))
        client.server.handle_exit(signal.SIGTERM, None)
        until(lambda: client.state.service.gate.closing)
        assert not client.server.should_exit
        client.server.handle_exit(signal.SIGINT, None)
        assert client.server.forced_by == signal.SIGINT
    assert_free(endless)
    raw.close()


def test_killed_it_repeats_and_loses_nothing_and_told_to_stop_it_ends_with_code_0(tmp_path):
    first = make_model(tmp_path / "endless", ends=False, context=200_000)
    second = make_model(tmp_path / "tiny")
    path = tmp_path / "jobs.db"
    options = ("--name", "m", "--database", f"sqlite:///{path}")
    rows = {f"short {i}": {"messages": CHAT, "max_tokens": 3} for i in range(6)} | {
        f"long {i}": {"messages": CHAT} for i in range(3)
    }
    with server_process(first, tmp_path / "first.log", *options) as server:
        client = server.client
        job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 3000}}).json
        ended = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 40}}).json
        batch = batch_of(client, rows)
        until(lambda: client.get(f"/v1/batches/{batch}").json["request_counts"]["completed"] == 6)
        until(lambda: client.get(f"/v1/solves/{ended['id']}").json["status"] == "done")
        posterior = client.get(f"/v1/solves/{ended['id']}").json["posterior"]
        server.kill()
    with sqlite3.connect(path) as database:
        before = [line for (line,) in database.execute("SELECT line FROM batch_rows")]
    database.close()
    with server_process(second, tmp_path / "second.log", *options) as server:
        client = server.client
        until(lambda: client.get(f"/v1/batches/{batch}").json["status"] == "completed")
        until(lambda: client.get(f"/v1/solves/{job['id']}").json["status"] == "done")
        done = client.get(f"/v1/batches/{batch}").json
        content = client.get(f"/v1/files/{done['output_file_id']}/content").body.decode().splitlines()
        assert client.get(f"/v1/solves/{ended['id']}").json["posterior"] == posterior
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert [json.loads(line)["custom_id"] for line in content] == list(rows)
    assert len(before) == 6 and set(before) < set(content)


def test_a_port_that_is_taken_and_a_model_that_is_not_there_are_told(tmp_path, monkeypatch):
    from outthink.cli.app import app

    # It would write to where the runner catches stderr, also after that is closed.
    monkeypatch.setattr("outthink.serve.logs.set_up_logging", lambda *_: None)
    directory = make_model(tmp_path / "tiny")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(app, ["serve", str(directory), "--port", port, "--database", "sqlite://"])
    assert found.exit_code == 2 and port in found.stderr
    found = CliRunner().invoke(app, ["serve", str(tmp_path / "nowhere"), "--port", "0", "--database", "sqlite://"])
    assert found.exit_code == 2 and "nowhere" in found.stderr
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    arguments = ["serve", str(directory), "--port", "0", "--database", f"sqlite:///{tmp_path}/bad.db"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2 and "--database" in found.stderr
