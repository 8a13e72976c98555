"""``outthink bench reason`` and ``small-vs-large`` as a person meets them."""

from __future__ import annotations

import json
import signal

import pytest

from outthink.bench.reason import run as room
from outthink.cli import bench_reason

SMALL = ["-s", "greedy,vote", "--suite", "arithmetic", "-d", "0.1", "-b", "80,200", "-n", 3, "--backend", "reference"]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr("outthink.bench.reason.ground.draw", lambda result, out: [])
    monkeypatch.setattr("outthink.bench.reason.versus.draw", lambda result, path: path)


def test_the_table_and_the_json_say_the_same(run, model, tmp_path):
    command = ["bench", "reason", "-m", f"T={model}", *SMALL, "-o", tmp_path / "r.json"]
    ran = run(*command)
    assert ran.code == 0
    told = run(*command, "--json")  # complete: nothing is measured again
    assert told.code == 0
    assert told.json == json.loads((tmp_path / "r.json").read_text())
    points = [point for point in told.json["points"] if point["scope"] == "overall"]
    assert [(p["strategy"], p["budget"]) for p in points] == [
        (s, b) for s in ("greedy", "majority-vote") for b in ("80 tokens", "200 tokens")
    ]
    for point in points:
        figures = [f"{100 * point['accuracy']['value']:.1f}", f"{point['tokens']:,.0f}", f"{point['most_pages']:,}"]
        assert any(all(figure in line.split() for figure in figures) for line in ran.out.splitlines())
    assert "n = 3 problems in every cell; no bill exceeded its budget" in ran.out
    assert "n is too small to tell" in ran.out
    assert told.json["command"].startswith("outthink")
    assert told.json["spending"]["greedy"]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(run, model, tmp_path, monkeypatch):
    command = ["bench", "reason", "-m", model, *SMALL, "-o", tmp_path / "r.json", "--concurrency", 1]
    think, count = room.think, []

    async def interrupted(*args, **options):
        count.append(1)
        if len(count) == 7:
            signal.raise_signal(signal.SIGINT)
        return await think(*args, **options)

    monkeypatch.setattr(room, "think", interrupted)
    ran = run(*command)
    assert ran.code == 130
    assert "the same command goes on" in ran.err
    assert "n = 1 problems" in ran.out
    assert run(*command).code == 0
    assert len(count) == 7 + 6  # the seventh was cut, and counts for nothing


def test_ctrl_c_before_there_is_anything_to_tell(run, model, tmp_path, monkeypatch):
    async def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return await think(*args, **options)

    think = room.think
    monkeypatch.setattr(room, "think", interrupted)
    ran = run("bench", "reason", "-m", model, *SMALL, "-o", tmp_path / "r.json", "--concurrency", 1)
    assert (ran.code, ran.out) == (130, "")
    assert "the same command goes on" in ran.err


def test_a_changed_command_is_refused_with_what_differs(run, model, tmp_path):
    command = ["bench", "reason", "-m", model, "-o", tmp_path / "r.json"]
    assert run(*command, *SMALL).code == 0
    ran = run(*command, *SMALL, "--seed", 4, "--temperature", 0.5)
    assert ran.code == 2
    assert "config.temperature was 1.0 and is 0.5; config.seed was 0 and is 4" in " ".join(ran.err.split())


def test_small_against_large(run, model, tmp_path):
    command = ["bench", "small-vs-large", "--small", f"A={model}", "--large", f"B={model}", "-s", "vote,mcts", "-n", 2]
    command += ["--suite", "arithmetic", "-d", "0.1", "--multiples", "1,2", "--backend", "reference"]
    ran = run(*command, "--verifier", "step-oracle", "-o", tmp_path / "v.json")
    assert ran.code == 0
    rows = json.loads((tmp_path / "v.json").read_text())["rows"]
    assert len(rows) == 2 + 2 * 2
    assert [row["share"] for row in rows[:2]] == [1.0, 1.0]
    for row in rows:
        assert any(row["model"] in line and f"{row['share']:.2f}" in line.split() for line in ran.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["reason", "-o", "x.txt"], ["x.txt", ".json"]),
        (["reason", "-o", "x.json", "-s", "gready"], ["'gready'", "greedy"]),
        (["reason", "-o", "x.json", "-b", "1k,2 s"], ["one unit"]),
        (["reason", "-o", "x.json", "-b", "1k,"], ["--budgets", "empty part"]),
        (["reason", "-o", "x.json", "-d", "easy"], ["--difficulties", "'easy'"]),
        (["reason", "-o", "x.json", "-d", "1.5"], ["1.5", "0..1"]),
        (["reason", "-o", "x.json", "--suite", "nope"], ["'nope'", "outthink-core"]),
        (["reason", "-o", "x.json", "-n", "0"], ["0 problems"]),
        (["reason", "-o", "x.json", "-m", "S="], ["'S='", "LABEL=SOURCE"]),
        (["reason", "-o", "x.json", "--verifier", "exakt"], ["'exakt'", "exact"]),
        (["reason", "-o", "x.json", "--concurrency", "0"], ["--concurrency 0"]),
        (["reason", "-o", "/"], ["/ "]),
        (["small-vs-large", "-o", "x.json", "--small", "a,a", "--large", "b"], ["label of its own"]),
        (["small-vs-large", "-o", "x.json", "--small", "a", "--large", "b", "--multiples", "0"], ["above 0"]),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(run, arguments, named):
    ran = run("bench", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    for text in named:
        assert text in ran.err


def test_a_result_is_drawn_again_from_its_json_alone(run, model, tmp_path):
    command = [
        "bench",
        "reason",
        "-m",
        model,
        "-s",
        "greedy",
        "--suite",
        "arithmetic",
        "-d",
        "0.1",
        "-b",
        "80",
        "-n",
        1,
    ]
    assert run(*command, "--backend", "reference", "-o", tmp_path / "r.json").code == 0
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "r.json").rename(moved)
    assert run("bench", "draw", moved).code == 0
    assert moved.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    for text in ("[1]", '{"what": "else"}', "no json"):
        moved.write_text(text)
        ran = run("bench", "draw", moved)
        assert ran.code == 2
        assert "elsewhere.json" in ran.err


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(bench_reason.time, "monotonic", lambda: clock[0])
    show = bench_reason._lines(lambda text, **_: written.append(str(text)))
    for done in range(101):
        clock[0] = float(done)
        show(done, 100, f"S, {done} answered")
    assert len(written) == 100 // bench_reason.EVERY_S
    assert written[0] == "S, 20 answered: 20%, about 1.3 min left"
