"""Threads and number formats from the command line, and what ``doctor`` says of a model."""

import json

import pytest

from cli.tiny_model import PROBLEM
from hf_models import make_hf_model
from outthink.cli import options
from outthink.learn.quantize import Quantization, quantize
from outthink.lm import model as lm

COMMANDS = {
    "solve": ["solve", PROBLEM, "-s", "greedy", "-q", "-m"],
    "generate": ["generate", PROBLEM, "--max-tokens", 2, "-m"],
    "compare": ["compare", PROBLEM, "-s", "greedy", "--json", "-m"],
}


@pytest.fixture
def backends(monkeypatch):
    """The backends that are opened."""
    opened, real = [], lm.open_backend

    def spy(*arguments, **named):
        made = real(*arguments, **named)
        opened.append(made[1])
        return made

    monkeypatch.setattr(lm, "open_backend", spy)
    return opened


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_and_kv_reach_the_kernels(run, model, backends, command):
    ran = run(*COMMANDS[command], model, "--threads", 1, "--kv", "int8", "--weights", "int8")
    assert ran.code == 0, ran.err
    assert (backends[0].threads, backends[0].kv_format, backends[0].weight_format) == (1, "int8", "int8")


@pytest.mark.parametrize("command", ["serve", "batch"])
def test_servers_and_batches_hand_them_on(run, model, tmp_path, monkeypatch, command):
    class OpenedError(Exception):
        pass

    def load(source, **given):
        raise OpenedError(given["threads"], given["kv"])

    monkeypatch.setattr(lm, "load", load)
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}) + "\n"
    )
    where = {"serve": [model, "--port", 0], "batch": [tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "-m", model]}
    with pytest.raises(OpenedError) as caught:
        run(command, *where[command], "--threads", 3, "--kv", "float32")
    assert caught.value.args == (3, "float32")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--threads", 0], "threads=0"),
        (["--kv", "int4"], "'int4'"),
        (["--base-url", "http://127.0.0.1:9/v1", "--threads", 2], "--threads 2: with --base-url"),
        (["--base-url", "http://127.0.0.1:9/v1", "--kv", "int8"], "--kv int8: with --base-url"),
    ],
)
def test_mistakes(run, model, arguments, named):
    ran = run("generate", "x", *(() if "--base-url" in arguments else ("-m", model)), *arguments)
    assert ran.code == 2 and named in ran.err


def test_doctor_tells_what_computes_a_model(run, tmp_path):
    make_hf_model("qwen2", tmp_path / "plain", dtype="bfloat16", hidden_size=64, intermediate_size=160)
    told = {}
    for name, how in {"coded": (4, 32), "grouped": (8, 32)}.items():
        quantize(tmp_path / "plain", tmp_path / name, Quantization(*how, "nearest"))
    for name in ("plain", "coded", "grouped"):
        found = run("doctor", tmp_path / name, "--json").json
        told[name], kernels = found[str(tmp_path / name)], found["kernels"]["cpu"]
    isa = told["plain"]["computed by"].removeprefix("the compiled kernels for ").split(",")[0]
    assert f"with {isa}" in kernels
    assert [told[name]["weights"].split(";")[0] for name in told] == ["bfloat16", "int4", "int8"]
    assert told["plain"]["notes"] == told["coded"]["notes"] == []
    assert "rounded again to int8" in told["grouped"]["notes"][0]
    shown = " ".join(run("doctor", tmp_path / "grouped").out.split())
    assert "rounded again to int8" in shown and "plain torch" not in told["plain"]["computed by"]


def test_doctor_of_what_the_kernels_do_not_cover_and_of_no_model(run, tmp_path, monkeypatch):
    make_hf_model("llama", tmp_path / "plain")
    monkeypatch.setattr("outthink.kernels.cpu.extension.MAX_HEAD_DIM", 2)
    told = run("doctor", tmp_path / "plain", "--json").json[str(tmp_path / "plain")]
    assert told["computed by"] == "plain torch" and "an even head_dim up to 2" in told["notes"][0]
    ran = run("doctor", tmp_path / "nothing")
    assert ran.code == 2 and "no directory" in ran.err


def test_the_same_warning_is_told_once():
    import warnings

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for text, kind in (("a", UserWarning), ("b", DeprecationWarning), ("a", UserWarning), ("c", UserWarning)):
            warnings.warn(text, kind, stacklevel=1)
    assert options.user_warnings(warned) == ["a", "c"]
