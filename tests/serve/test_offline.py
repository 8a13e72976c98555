"""`outthink batch`: rows of a file answered into another, whatever comes in between."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from cli.tiny_model import make_model
from outthink.core.errors import UserError
from outthink.serve.offline import Results, read_input
from outthink.serve.rows import Result
from serve_world import until

CHAT = {"messages": [{"role": "user", "content": "compute 17 + 5"}]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "endless", ends=False, context=200_000)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(name, body, url="/v1/chat/completions"):
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def batch(*arguments):
    from outthink.cli.app import app

    found = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_all_kinds_are_answered_in_order_and_errors_stand_apart(tiny, tmp_path):
    rows = [
        row("chat", {**CHAT, "max_tokens": 5, "seed": 1}),
        row("bad", {**CHAT, "n": 0}),
        row("text", {"prompt": "compute 17 + 5", "max_tokens": 5}, "/v1/completions"),
        row("vector", {"input": "compute 17 + 5"}, "/v1/embeddings"),
        row("solve", {"problem": "compute 17 + 5", "thinking": {"budget": 500}, "seed": 1}, "/v1/solves"),
        row("too long", {"prompt": "x" * 1000}, "/v1/completions"),
    ]
    output = tmp_path / "out.jsonl"
    found = batch(write(tmp_path / "in.jsonl", rows), "-o", output, "--model", tiny, "--json")
    assert found.exit_code == 1 and "2 of 6 rows failed" in found.stderr
    told = json.loads(found.stdout)
    assert (told["rows"], told["answered"], told["failed"], told["resumed"]) == (6, 4, 2, 0)
    assert [line["custom_id"] for line in lines(output)] == ["chat", "text", "vector", "solve"]
    errors = lines(tmp_path / "out.errors.jsonl")
    assert [line["custom_id"] for line in errors] == ["bad", "too long"]
    assert all(line["response"]["status_code"] == 400 for line in errors)
    assert lines(output)[3]["response"]["body"]["posterior"]["best"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.errors.jsonl", "out.jsonl"]


def test_killed_it_goes_on_and_answers_nothing_twice(tiny, endless, tmp_path):
    rows = [row(f"short {i}", {**CHAT, "max_tokens": 3}) for i in range(6)] + [row(f"long {i}", CHAT) for i in range(3)]
    source, output = write(tmp_path / "in.jsonl", rows[::-1]), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "outthink", "batch", str(source), "-o", str(output), "-m", str(endless)]
    process = subprocess.Popen([*command, "--name", "m"], stderr=subprocess.DEVNULL)
    until(lambda: process.poll() is not None or (output.is_file() and output.read_bytes().count(b"\n") == 6), 120)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    before = output.read_text().splitlines()
    output.write_text(output.read_text() + before[0][:40])  # as if the kill had come within a line
    assert batch(source, "-o", output, "-m", tiny, "--name", "m").exit_code == 2  # it is there already
    found = batch(source, "-o", output, "-m", tiny, "--name", "m", "--resume", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["resumed"] == 6
    after = output.read_text().splitlines()
    assert set(before) < set(after)
    assert [json.loads(line)["custom_id"] for line in after] == [each["custom_id"] for each in rows[::-1]]
    again = batch(source, "-o", output, "-m", tiny, "--name", "m", "--resume", "--json")
    assert again.exit_code == 0 and output.read_text().splitlines() == after


def test_stopped_it_keeps_what_is_finished(endless, tmp_path):
    rows = [row("short", {**CHAT, "max_tokens": 3}), row("long", CHAT)]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def interrupt():
        until(lambda: output.is_file() and b"\n" in output.read_bytes())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    found = batch(source, "-o", output, "-m", endless, "--json")
    thread.join()
    assert found.exit_code == 130 and json.loads(found.stdout)["interrupted"]
    assert [line["custom_id"] for line in lines(output)] == ["short"]


def test_what_failed_is_tried_again(tiny, tmp_path):
    source = write(tmp_path / "in.jsonl", [row("a", {**CHAT, "max_tokens": 3, "model": "mine"})])
    output = tmp_path / "out.jsonl"
    assert batch(source, "-o", output, "-m", tiny).exit_code == 1
    assert lines(tmp_path / "out.errors.jsonl")[0]["response"]["status_code"] == 404
    assert batch(source, "-o", output, "-m", tiny, "--name", "mine", "--resume").exit_code == 0
    assert lines(output)[0]["custom_id"] == "a" and not (tmp_path / "out.errors.jsonl").exists()


@pytest.mark.parametrize(
    "text", ["", "{", '{"custom_id": "a"}', '{"custom_id": "a", "url": "/v1/models", "body": {}}', "\n[]\n"]
)
def test_a_file_that_is_no_batch_is_refused_before_a_model_is_loaded(text, tmp_path):
    (tmp_path / "in.jsonl").write_text(text)
    found = batch(tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", tmp_path / "nowhere")
    assert found.exit_code == 2 and "line " in found.stderr and not (tmp_path / "out.jsonl").exists()


def test_files_that_cannot_be_are_refused(tmp_path):
    source = write(tmp_path / "in.jsonl", [row("a", CHAT)])
    for arguments in (
        (source, "-o", source),
        (source, "-o", tmp_path / "o", "--errors", tmp_path / "o"),
        (tmp_path / "nowhere", "-o", tmp_path / "o"),
        (source, "-o", tmp_path / "no" / "where"),
    ):
        assert batch(*arguments).exit_code == 2


def results_of(tmp_path, rows, resume):
    asked = read_input(write(tmp_path / "in.jsonl", rows))
    return asked, Results(tmp_path / "out.jsonl", tmp_path / "errors.jsonl", asked, resume)


def line_of(asked):
    return json.dumps({"id": asked.id, "custom_id": asked.custom_id})


def test_answers_to_other_rows_are_not_taken_for_these(tmp_path):
    [asked], results = results_of(tmp_path, [row("a", CHAT)], resume=False)
    results.keep(Result(0, False, line_of(asked)))
    results.close()
    with pytest.raises(UserError, match="other rows"):
        results_of(tmp_path, [row("a", {**CHAT, "seed": 2})], resume=True)
    with pytest.raises(UserError, match="other rows"):
        results_of(tmp_path, [row("b", CHAT)], resume=True)
    _, results = results_of(tmp_path, [row("b", CHAT), row("a", CHAT)], resume=True)
    assert list(results.lines) == [1]
    results.close()


def test_two_do_not_write_one_file(tmp_path):
    _, first = results_of(tmp_path, [row("a", CHAT)], resume=True)
    with pytest.raises(UserError, match="Another process"):
        results_of(tmp_path, [row("a", CHAT)], resume=True)
    first.close()
    _, second = results_of(tmp_path, [row("a", CHAT)], resume=True)
    second.close()


def test_a_full_disk_is_told_and_what_is_whole_is_kept(tmp_path):
    asked, results = results_of(tmp_path, [row("a", CHAT), row("b", CHAT)], resume=False)
    results.keep(Result(0, False, line_of(asked[0])))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, results._file)
    os.close(full)
    with pytest.raises(UserError, match=r"No space.*--resume"):
        results.keep(Result(1, False, line_of(asked[1])))
    assert list(results.lines) == [0]
    results.close()
    _, again = results_of(tmp_path, [row("a", CHAT), row("b", CHAT)], resume=True)
    assert list(again.lines) == [0]
    again.close()
