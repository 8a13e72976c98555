"""Load is made and counted as it should be, memory is read, and rounds become medians and ratios."""

import json
import os
import sys
from subprocess import Popen
from types import SimpleNamespace

import httpx
import pytest

import outthink
from cli.tiny_model import make_model
from outthink.bench.engine.weights import Subject
from outthink.bench.serve.guidellm import read_report
from outthink.bench.serve.load import Shape, Tally, prompts, run_load
from outthink.bench.serve.memory import Memory, slope, summary
from outthink.bench.serve.picture import draw
from outthink.bench.serve.report import points_of, ratios_of, report
from outthink.bench.serve.rounds import LoadConfig, figures, measure, quantile
from outthink.bench.serve.servers import OURS, THEIRS, Server, start_theirs
from outthink.bench.serve.soak import soak
from outthink.bench.serve.unending import unending_gguf
from outthink.core.errors import CapabilityError
from outthink.lm.model import resolve
from outthink.quant.gguf_file import read_file
from serve_world import served

SHAPE = Shape(prompt_tokens=12, output_tokens=6)
MACHINE = {"cpu": "some", "flags": [], "cores": 2, "threads": 1, "cores_in_use": 0.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tiny model served within this process, as the bench sees servers."""
    with outthink.load(make_model(tmp_path_factory.mktemp("load") / "tiny")) as model, served(model) as client:
        process = SimpleNamespace(pid=os.getpid())
        yield Server(OURS, f"http://127.0.0.1:{client.port}", model.name, {"ignore_eos": True}, process, None)


def generated(server):
    """The tokens of all answers so far, as the server counts them."""
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    [line] = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")]
    return float(line.rpartition(" ")[2])


def test_load_keeps_its_streams_busy_and_counts_every_token(server):
    before = generated(server)
    tally = run_load(server, 3, 0.5, SHAPE, 1)
    assert not tally.errors and len(tally.whole) == len(tally.first) >= 3
    assert generated(server) - before == SHAPE.output_tokens * len(tally.whole)
    assert len(tally.gaps) >= len(tally.whole) and tally.tokens <= SHAPE.output_tokens * len(tally.whole)
    assert tally.seconds == 0.5 and all(value > 0 for value in tally.whole)


def test_clients_that_leave_are_told_apart(server):
    tally = run_load(server, 2, 0.5, SHAPE, 2, drop_every=2)
    assert not tally.errors and tally.dropped > 0
    assert abs(tally.dropped - len(tally.whole)) <= 2


def test_refusals_are_errors_and_no_answers(server):
    wrong = Server(OURS, server.url, "another", {}, server.process, None)
    tally = run_load(wrong, 2, 0.2, SHAPE, 3)
    assert tally.errors and all(error.startswith("404") for error in tally.errors)
    assert not tally.whole and not tally.tokens


def test_prompts_are_unlike_and_the_same_for_every_server():
    draw_some = [[next(source) for _ in range(50)] for source in (prompts(128, 1), prompts(128, 1), prompts(128, 2))]
    assert draw_some[0] == draw_some[1] != draw_some[2] and len(set(draw_some[0])) == 50


def test_prompts_are_about_as_long_as_asked():
    with outthink.load() as model:
        for wanted in (32, 128):
            tokens = len(model.loaded.tokenizer.encode(next(prompts(wanted, 1))))
            assert 0.8 * wanted <= tokens <= 1.2 * wanted


def test_rounds_bear_every_load_and_a_soak_leaves_nothing(server, tmp_path):
    config = LoadConfig((1, 2), 2, 0.2, SHAPE, "own", warm_s=0.1)
    other = Server(THEIRS, server.url, server.model, server.asks, server.process, None)
    with Memory([server, other]) as memory:
        measured = measure([server, other], config, tmp_path, None, memory, tmp_path, lambda *_: None)
        soaked = soak(server, 0.02, SHAPE, 9, memory, lambda _: None)
    places = [(load["round"], load["streams"], load["server"]) for load in measured.loads]
    assert places == [(r, s, name) for r in (0, 1) for s in (1, 2) for name in (OURS, THEIRS)]
    assert soaked["errors"] == 0 and soaked["dropped"] > 0 and not any(soaked["left"].values())
    about = {"model": "tiny", "gguf": "bf16", "servers": {}}
    result = report(measured, config, MACHINE, memory.to_json(), soaked, about, "outthink bench serve")
    json.dumps(result)
    draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_ctrl_c_keeps_what_is_finished(server, tmp_path):
    def interrupt(done, total, what):
        if done == 1:
            raise KeyboardInterrupt

    config = LoadConfig((1, 2), 1, 0.1, SHAPE, "own", warm_s=0.1)
    measured = measure([server], config, tmp_path, None, Memory([server]), tmp_path, interrupt)
    assert measured.interrupted and [load["streams"] for load in measured.loads] == [1]
    about = {"model": "tiny", "gguf": None, "servers": {}}
    draw(report(measured, config, MACHINE, {}, None, about, ""), tmp_path / "picture.png")


def test_quantiles_are_nearest_ranks():
    values = [float(v) for v in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([7.0], 0.99) == 7.0 and quantile([], 0.5) is None


def test_medians_and_ratios_are_of_rounds():
    loads = [
        {"server": name, "streams": 4, "round": number, **figures(Tally([0.1], [gap], [1.0], [], 0, tokens, 2.0))}
        for number, (mine, theirs) in enumerate([(30, 10), (20, 10), (40, 10)])
        for name, tokens, gap in ((OURS, mine, 0.01), (THEIRS, theirs, 0.02))
    ]
    mine, theirs = points_of(loads)
    assert (mine["tokens_per_s"], theirs["tokens_per_s"]) == (15.0, 5.0) and mine["rounds"]["tokens_per_s"][2] == 20.0
    [ratio] = ratios_of(loads)
    assert ratio["tokens_per_s"] == {"median": 3.0, "low": 2.0, "high": 4.0, "rounds": 3}
    assert ratio["itl_p50_s"]["median"] == 0.5
    failed = {"server": THEIRS, "streams": 4, "round": 0, "requests": 0, "errors": 0, "failed": True}
    assert ratios_of([loads[0], failed]) == [{"streams": 4}]


def test_memory_that_grows_is_told_from_memory_that_does_not():
    flat = [(float(t), 100.0 + (50.0 if t > 10 else 0.0)) for t in range(100)]  # it warms up, and stays
    assert summary(flat)["growth_bytes_per_min"] == pytest.approx(0.0)
    leaking = [(float(t), 100.0 + 3 * t) for t in range(100)]
    assert summary(leaking)["growth_bytes_per_min"] == pytest.approx(180.0)
    assert slope([(1.0, 5.0)]) == 0.0 and summary(leaking)["peak_bytes"] == 397.0
    assert len(summary([(float(t), 1.0) for t in range(5000)])["readings"]) <= 1200


def test_a_report_of_guidellm_is_read_in_seconds():
    times = {"count": 3, "percentiles": {"p50": 20.0, "p99": 40.0}}
    metrics = {
        "request_totals": {"successful": 3, "errored": 1},
        "time_to_first_token_ms": {"successful": times},
        "inter_token_latency_ms": {"successful": {"count": 0, "percentiles": {"p50": 0.0, "p99": 0.0}}},
        "output_tokens_per_second": {"successful": {"mean": 90.0}},
        "requests_per_second": {"successful": {"mean": 3.0}},
    }
    found = read_report({"benchmarks": [{"metrics": metrics}]})
    assert found["ttft_p50_s"] == 0.02 and found["ttft_p99_s"] == 0.04 and found["itl_p50_s"] is None
    assert (found["requests"], found["errors"], found["tokens_per_s"]) == (3, 1, 90.0)


def test_the_other_servers_weights_end_with_what_is_never_written(tmp_path):
    directory = resolve("outthink-s")
    path = unending_gguf(Subject("s", directory), "bf16", tmp_path)
    assert read_file(path).metadata["tokenizer.ggml.eos_token_id"] == 0
    assert json.loads((directory / "config.json").read_text())["eos_token_id"] != 0


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(CapabilityError, match="llama_cpp"):
        start_theirs(tmp_path / "none.gguf", sys.executable, 512, 1, tmp_path / "log")


def test_the_memory_of_a_process_is_read():
    with Popen([sys.executable, "-c", "x = bytearray(1 << 26); input()"], stdin=-1) as process:
        server = Server("x", "", "x", {}, process, None)
        while server.rss < 1 << 26:
            assert process.poll() is None
        process.communicate(b"\n")
    assert server.rss == 0
