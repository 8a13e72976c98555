"""Batches as the openai client makes them: answers, errors row by row, and nothing of one client's for another."""

import io
import json
import threading
import time
from itertools import pairwise

import openai
import pytest

from outthink.serve import row_source
from outthink.serve.row_source import RowSource, survey
from outthink.serve.rows import PRIORITY, check_rows, read_rows
from serve_world import Client, begin_request, served, until

CHAT = {"messages": [{"role": "user", "content": "compute 17 + 5"}], "max_tokens": 6}
KEYS = ("first-key-of-two", "second-key-of-two")
ENDLESS = {**CHAT, "max_tokens": 100_000}
OVER = ("completed", "failed", "cancelled", "expired")


def line(name, body, url="/v1/chat/completions", **more):
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **more}


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def api_of(client, key="none"):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key=key, max_retries=0)


def begin(api, rows, endpoint="/v1/chat/completions", **more):
    content = rows if isinstance(rows, bytes) else as_lines(rows)
    file = api.files.create(file=("rows.jsonl", io.BytesIO(content)), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def finished(api, batch):
    end = time.monotonic() + 60
    while (now := api.batches.retrieve(batch.id)).status not in OVER:
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def lines_of(api, file_id):
    return [json.loads(text) for text in api.files.content(file_id).text.splitlines()] if file_id else []


def test_a_batch_answers_what_single_requests_answer(client, model):
    api = api_of(client)
    rows = [line(f"row {i}", {**CHAT, "seed": i, "model": model.name}) for i in range(7)]
    batch = finished(api, begin(api, rows, metadata={"of": "test"}))
    assert batch.status == "completed" and batch.error_file_id is None and batch.metadata == {"of": "test"}
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 7, 0)
    found = lines_of(api, batch.output_file_id)
    assert [entry["custom_id"] for entry in found] == [row["custom_id"] for row in rows]
    for entry, row in zip(found, rows, strict=True):
        single = client.post("/v1/chat/completions", row["body"]).json
        assert entry["response"]["status_code"] == 200 and entry["error"] is None
        assert entry["response"]["body"]["choices"] == single["choices"]
    assert [each.id for each in api.batches.list(limit=1).data] == [batch.id]


@pytest.mark.parametrize(
    ("endpoint", "body", "there"),
    [
        ("/v1/completions", {"prompt": "compute 17 + 5", "n": 2}, "choices"),
        ("/v1/embeddings", {"input": "compute 17 + 5"}, "data"),
        ("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 500}, "seed": 1}, "posterior"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": None, "thinking": {"budget": 500}}, "thinking"),
    ],
)
def test_every_endpoint(client, endpoint, body, there):
    api = api_of(client)
    batch = finished(api, begin(api, [line("a", body, endpoint)], endpoint))
    [entry] = lines_of(api, batch.output_file_id)
    assert entry["response"]["body"][there]


def test_errors_are_told_row_by_row_and_the_others_go_on(client):
    api = api_of(client)
    long = [{"role": "user", "content": "x" * 5000}]
    more = ({"no_such_option": 1}, {"model": "gpt-9"}, {"stream": True}, {"n": 0}, {"messages": long},
            {"thinking": {"strategy": "x"}})  # fmt: skip
    bad = [{**CHAT, **each} for each in more]
    rows = [line(f"bad {i}", body) for i, body in enumerate(bad)] + [line("good", CHAT)]
    batch = finished(api, begin(api, rows))
    assert batch.status == "completed" and batch.request_counts.failed == len(bad)
    assert [entry["custom_id"] for entry in lines_of(api, batch.output_file_id)] == ["good"]
    errors = lines_of(api, batch.error_file_id)
    assert [entry["custom_id"] for entry in errors] == [f"bad {i}" for i in range(len(bad))]
    assert {entry["response"]["status_code"] for entry in errors} == {400, 404}
    assert all(entry["response"]["body"]["error"]["message"] for entry in errors)


def test_bodies_are_checked_before_anything_is_computed(client, model):
    service_rows, faults = read_rows(as_lines([line("a", {**CHAT, "n": 0}), line("b", CHAT)]))
    assert not faults
    before = model.engine.stats.positions
    with served(model) as _:
        from outthink.serve.app import make_app
        from outthink.serve.config import ServeConfig

        service = make_app(model, ServeConfig()).app.state.service
        [refused] = check_rows(service, service_rows)
    assert refused.number == 0 and refused.failed and model.engine.stats.positions == before


def test_every_row_is_measured_by_itself(model):
    with served(model) as client:
        api = api_of(client)
        finished(api, begin(api, [line(f"row {i}", {**CHAT, "seed": i, "logit_bias": {"1": -100}}) for i in range(9)]))
        metrics = client.get("/metrics").body.decode().splitlines()
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        [count] = [text.split()[-1] for text in metrics if text.startswith(f"vllm:{name}_count")]
        assert float(count) == 9


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[1]\n",
        b"null",
        b"\xff\xfe\n",
        b"[" * 100_000,
        b'{"custom_id": "a", "url": "/v1/chat/completions", "body": {"x": NaN}}',
        as_lines([line("a", CHAT), line("a", CHAT)]),
        as_lines([line("a", CHAT, "/v1/files")]),
        as_lines([line("a", CHAT, "/v1/embeddings")]),
        as_lines([line("a", CHAT, method="GET")]),
        as_lines([line("a", CHAT, priority=3)]),
        as_lines([line("", CHAT)]),
        as_lines([line("a" * 513, CHAT)]),
        as_lines([line("a", [])]),
        b'{"custom_id": "a", "custom_id": "b", "url": "/v1/chat/completions", "body": {}}',
        b'{"custom_id": "a\\ud800", "url": "/v1/chat/completions", "body": {}}',
        b"\n\n",
    ],
)
def test_lines_that_are_no_rows_fail_the_batch_before_it_begins(client, model, content):
    before = model.engine.stats.positions
    api = api_of(client)
    batch = finished(api, begin(api, content))
    assert batch.status == "failed" and batch.errors.data[0].message and batch.errors.data[0].line >= 1
    assert model.engine.stats.positions == before


def test_a_cancelled_batch_frees_its_pages_and_keeps_what_is_finished(waiting, endless):
    api = api_of(waiting)
    rows = [line("short", CHAT), *(line(f"long {i}", {**CHAT, "max_tokens": 10_000}) for i in range(40))]
    batch = begin(api, rows)
    until(lambda: api.batches.retrieve(batch.id).request_counts.completed == 1)
    api.batches.cancel(batch.id)
    until(lambda: not endless.thread.call(endless.engine.scheduler.leases))
    batch = finished(api, batch)
    assert batch.status == "cancelled" and batch.cancelled_at and batch.cancelling_at
    assert [entry["custom_id"] for entry in lines_of(api, batch.output_file_id)] == ["short"]
    errors = lines_of(api, batch.error_file_id)
    assert len(errors) == 40 and {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert api.batches.cancel(batch.id).status == "cancelled"


def test_rows_wait_behind_those_who_wait_for_an_answer(endless):
    with served(endless, max_running=1) as client:
        api, gate = api_of(client), client.state.service.gate
        first = begin_request(client, "/v1/chat/completions", {**CHAT, "max_tokens": 100_000})
        until(lambda: gate.num_running == 1)
        batch = begin(api, [line("row", CHAT)])
        until(lambda: gate.num_waiting == 1)
        second = begin_request(client, "/v1/chat/completions", {**CHAT, "max_tokens": 100_000})
        until(lambda: gate.num_waiting == 2)
        first.close()
        until(lambda: gate.num_waiting == 1)
        assert [place.priority for place in gate._waiting[""]] == [PRIORITY] and PRIORITY > 0
        second.close()
        assert finished(api, batch).status == "completed"


def test_one_tenant_keeps_no_other_from_its_batches(endless):
    with served(endless, api_keys=KEYS) as client:
        one, other = (api_of(client, key) for key in KEYS)
        client.state.batches._shares.most = 2
        begun = [begin(one, [line("long", ENDLESS)]) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refused:
            begin(one, [line("a", CHAT)])
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert finished(other, begin(other, [line("a", CHAT)])).status == "completed"
        for batch in begun:
            one.batches.cancel(batch.id)
            finished(one, batch)
        assert finished(one, begin(one, [line("a", CHAT)])).status == "completed", "its places are free again"


def test_tenants_take_turns_with_rows(endless):
    with served(endless, api_keys=KEYS, max_rows=1) as client:
        (one, other), places = (api_of(client, key) for key in KEYS), client.state.batches._places
        batches = []
        for number in range(3):
            batches.append(begin(one, [line("long", ENDLESS)]))
            until(lambda number=number: (places.num_running, places.num_waiting) == (1, number))
        theirs = begin(other, [line("a", CHAT)])
        until(lambda: places.num_waiting == 3)
        for batch in batches[:2]:
            one.batches.cancel(batch.id)
        assert finished(other, theirs).status == "completed", "it waits for one of theirs, not for all"
        one.batches.cancel(batches[2].id)
        finished(one, batches[2])


def test_few_files_are_in_memory_at_once_and_one_of_each_tenant(model):
    keys = (*KEYS, "third-key-of-three")
    with served(model, api_keys=keys) as client:
        batches, inside, release, most = client.state.batches, [], threading.Event(), []
        real = batches.store.content

        def content(file_id, tenant):
            inside.append(tenant)
            most.append(len(inside))
            assert release.wait(60)
            inside.remove(tenant)
            return real(file_id, tenant)

        batches.store.content = content
        apis = [api_of(client, key) for key in keys]
        begun = [(api, begin(api, [line("a", CHAT)])) for api in (apis[0], *apis)]
        until(lambda: (len(inside), batches._files.num_waiting) == (2, 2))
        assert len(set(inside)) == 2
        release.set()
        assert all(finished(api, batch).status == "completed" for api, batch in begun)
        assert max(most) == 2 and len(most) == 4


@pytest.mark.parametrize("size", [1, 7, 200, 1000, 1 << 20])
async def test_rows_are_read_a_piece_at_a_time(monkeypatch, size):
    """Whatever the pieces: the same rows, no more of the file at once than a piece or a row, and nothing twice."""
    monkeypatch.setattr(row_source, "PIECE_BYTES", size)
    bodies = [{**CHAT, "seed": number, "user": "é" * (number * 37 % 101)} for number in range(30)]
    lines = [json.dumps(line(f"row {n}", body), ensure_ascii=False).encode() for n, body in enumerate(bodies)]
    content = b"\n\n" + b"\n".join(text + b" \r\n" * (n % 3 == 0) for n, text in enumerate(lines))
    rows, _ = read_rows(content, "/v1/chat/completions")
    assert [row.body for row in rows] == bodies
    longest, read = max(map(len, lines)) + 4, []

    async def piece(start, count):
        found = content[start : start + count]
        assert len(found) <= max(size, longest)
        read.append((start, len(found)))
        return found

    done = {0, 1, 17, 29}
    source, found = RowSource(survey(content, "/v1/chat/completions"), done, piece), []
    while (row := await source.next()) is not None:
        found.append(row)
    assert found == [row for row in rows if row.number not in done]
    assert all(start > before for (before, _), (start, _) in pairwise(read))
    assert len(read) == 1 if size > len(content) else len(read) > 1
    assert await source.next() is None


def test_files_of_one_client_are_not_there_for_another(model):
    with served(model, api_keys=KEYS) as locked:
        one, other = (api_of(locked, key) for key in KEYS)
        batch = finished(one, begin(one, [line("a", CHAT)]))
        for name in (batch.input_file_id, batch.output_file_id):
            assert one.files.retrieve(name).id == name
            for call in (other.files.retrieve, other.files.content, other.files.delete):
                with pytest.raises(openai.NotFoundError):
                    call(name)
        for call in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                call(batch.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert list(other.files.list()) == list(other.batches.list()) == []
        assert other.files.list(after=batch.input_file_id).data == []
        assert len(list(one.files.list(limit=1))) == 2  # the pages are walked to their end
        assert Client(locked.port).get("/v1/files").status == 401


def test_a_file_is_kept_for_the_batch_that_reads_it(waiting):
    api = api_of(waiting)
    batch = begin(api, [line("long", {**CHAT, "max_tokens": 10_000})])
    with pytest.raises(openai.ConflictError):
        api.files.delete(batch.input_file_id)
    api.batches.cancel(batch.id)
    finished(api, batch)
    assert api.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.content(batch.input_file_id)


def test_files_are_bounded_one_by_one_and_together(model):
    with served(model, max_file=2000, max_stored=3000) as client:
        api = api_of(client)
        with pytest.raises(openai.APIStatusError) as refused:
            api.files.create(file=("a", b"x" * 2001), purpose="batch")
        assert refused.value.status_code == 413
        with pytest.raises(openai.APIStatusError) as refused:
            api.files.create(file=("a", b"x" * (1 << 20)), purpose="batch")
        assert refused.value.status_code == 413
        first = api.files.create(file=("a\u0000/../b\u202e", b"x" * 2000), purpose="batch")
        assert first.bytes == 2000 and first.filename.isprintable()
        with pytest.raises(openai.BadRequestError, match="together"):
            api.files.create(file=("a", b"x" * 2000), purpose="batch")
        api.files.delete(first.id)
        assert api.files.create(file=("a", b"x" * 2000), purpose="batch").id != first.id


def test_uploads_that_are_none_are_refused(client):
    api = api_of(client)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        api.files.create(file=("a", b"x"), purpose="assistants")
    with pytest.raises(openai.BadRequestError, match="empty"):
        api.files.create(file=("a", b""), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        api.files.create(file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 4000})
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--x--"):
        assert client.send("POST", "/v1/files", body, form).status == 400
    assert client.post("/v1/files", {"purpose": "batch"}).status == 400
    with pytest.raises(openai.NotFoundError):
        api.batches.create(input_file_id="file-0", endpoint="/v1/chat/completions", completion_window="24h")


def test_an_equal_row_has_an_equal_name_and_another_has_not():
    rows, _ = read_rows(as_lines([line("a", CHAT), line("b", CHAT), line("c", {**CHAT, "seed": 1})]))
    again, _ = read_rows(b"\n" + as_lines([line("a", dict(reversed(CHAT.items())))]))
    assert again[0].id == rows[0].id and len({row.id for row in rows}) == 3
