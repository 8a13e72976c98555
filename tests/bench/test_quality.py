"""What formats cost: figures from records, and records from models."""

import asyncio
import json
import math

import numpy as np
import pytest
import torch

from cpu_cases import dense_logits
from hf_models import make_hf_model
from outthink.bench import quality
from outthink.bench.quality import BASE, Format, QualityConfig, Record, measure, run, summarize
from outthink.core.errors import UserError
from outthink.learn.quantize import Quantization
from outthink.lm.model import load
from outthink.models.checkpoint import load_model
from outthink.reason.solve import ask
from outthink.tasks.suites import get_suite


def records(losses, tokens, right, name="x"):
    return [Record(name, i, *values) for i, values in enumerate(zip(losses, tokens, right, strict=True))]


def test_figures_of_records():
    base = records([2.0, 3.0, 1.0, 4.0], [10, 20, 10, 40], [True, False, True, True])
    other = records([2.4, 3.0, 1.2, 4.8], [10, 20, 10, 40], [True, True, False, False])
    figures = summarize(other, base)
    assert figures["perplexity"] == pytest.approx(math.exp(11.4 / 80))
    assert figures["relative_perplexity"] == pytest.approx(math.exp((11.4 - 10) / 80) - 1)
    per_problem = figures["relative_perplexity_per_problem"]
    assert per_problem["value"] == pytest.approx(math.exp((0.04 + 0 + 0.02 + 0.02) / 4) - 1)
    assert per_problem["low"] < per_problem["value"] < per_problem["high"] <= math.expm1(quality.WIDEST)
    assert figures["accuracy"]["value"] == 0.5 and figures["accuracy_gain"]["value"] == -0.25
    assert figures["answers_changed"] == 3 and figures["differences_cut"] == 0
    far = summarize(records([200.0, 3.0, 1.0, 4.0], [10, 20, 10, 40], [True] * 4), base)
    assert far["differences_cut"] == 1
    same = summarize(base, base)
    assert same["relative_perplexity"] == 0 and same["accuracy_gain"]["value"] == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_hf_model("qwen2", directory, hidden_size=64, max_position_embeddings=256)
    return directory


def test_the_loss_is_that_of_the_solution_and_its_end(model):
    problems = get_suite("arithmetic").sample("validation", 3, 0)
    with load(model, backend="reference") as loaded:
        found = asyncio.run(measure(loaded, "x", problems, lambda *_: None))
    plain = load_model(model)
    for record, problem in zip(found, problems, strict=True):
        prompt = plain.tokenizer.encode(plain.tokenizer.render_chat(ask(problem).prompt))
        solution = [*plain.tokenizer.encode(problem.solution), plain.tokenizer.eos_ids[0]]
        logits = torch.from_numpy(dense_logits(plain.model, prompt + solution))
        log_probs = torch.log_softmax(logits.double(), -1)[len(prompt) - 1 : -1]
        expected = -log_probs[torch.arange(len(solution)), torch.tensor(solution)].sum()
        assert record.tokens == len(solution)
        assert record.loss == pytest.approx(float(expected), rel=1e-4)


def test_a_run_continues_where_it_stopped(model, tmp_path, monkeypatch):
    formats = (BASE, Format("int4", Quantization(4, 32, "nearest")), Format("kv", None, "int8"))
    monkeypatch.setattr(quality, "FORMATS", formats)
    config = QualityConfig("arithmetic", num_problems=4, num_documents=2)
    calls, real = [], quality.measure

    async def stopping(loaded, name, *rest):
        if name == "kv" and "kv" not in calls:
            calls.append(name)
            raise KeyboardInterrupt
        calls.append(name)
        return await real(loaded, name, *rest)

    monkeypatch.setattr(quality, "measure", stopping)
    out = tmp_path / "q.json"
    with pytest.raises(KeyboardInterrupt):
        run(model, config, out)
    assert not out.exists()
    result = run(model, config, out)
    assert calls == ["bf16", "int4", "kv", "kv"]
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert [row["name"] for row in result["formats"]] == ["bf16", "int4", "kv"]
    rows = result["formats"]
    assert rows[0]["relative_perplexity"] == 0 and abs(rows[1]["relative_perplexity"]) > 1e-4
    assert rows[1]["bytes"] < rows[0]["bytes"] and rows[1]["goal"] == 0.05
    assert out.with_suffix(".png").is_file() and out.with_suffix(".records.jsonl.gz").is_file()
    assert np.isfinite([row["perplexity"] for row in rows]).all()
    with pytest.raises(UserError, match="records of another measurement"):
        run(model, QualityConfig("arithmetic", num_problems=5), out)
