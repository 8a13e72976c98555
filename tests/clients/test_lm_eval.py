"""lm-eval on our tasks over our server, against our own bench on the same problems: equal, problem by problem."""

import asyncio
import json
from pathlib import Path

import pytest

import outthink
from clients.conftest import execute
from outthink.bench.coverage import CoverageConfig, Job, measure
from outthink.cli.export import choose, export_problems

pytestmark = pytest.mark.clients
FAMILIES, DIFFICULTY, PROBLEMS = ("arithmetic", "deduction"), 0.3, 12


def results_of(directory):
    """For each family the outcome of each problem, by its place in the file, and the accuracy that is reported."""
    [summary] = directory.rglob("results_*.json")
    reported = json.loads(summary.read_text())["results"]
    found = {}
    for family in FAMILIES:
        [samples] = directory.rglob(f"samples_outthink_{family}_*.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        right = {line["doc_id"]: bool(line["exact_match"]) for line in lines}
        found[family] = [right[k] for k in range(len(right))], reported[f"outthink_{family}"]["exact_match,none"]
    return found


ROUTES = {"local-completions": "completions", "local-chat-completions": "chat/completions"}


@pytest.mark.parametrize("kind", ROUTES)
def test_accuracy_is_that_of_our_own_bench(server, environment, tmp_path, kind):
    problems = choose(None, FAMILIES, [DIFFICULTY], PROBLEMS, "test", 0)
    export_problems(tmp_path / "tasks", problems)
    with outthink.load() as model:
        source = str(model.loaded.source)
        config = CoverageConfig(num_samples=1)
        ours = [asyncio.run(measure(model, Job(k, problem), config)).greedy for k, problem in enumerate(problems)]
    options = {
        "model": "outthink-m", "base_url": f"{server.api}/{ROUTES[kind]}", "tokenizer_backend": "huggingface",
        "tokenizer": source, "num_concurrent": 4, "max_retries": 1, "max_length": 1024,
    }  # fmt: skip
    command = [environment("lm-eval"), "-m", "lm_eval", "run", "--model", kind, "--model_args"]
    command += [",".join(f"{name}={value}" for name, value in options.items())]
    command += ["--include_path", tmp_path / "tasks", "--tasks", "outthink", "--batch_size", "1"]
    command += ["--apply_chat_template", "--log_samples", "--output_path", tmp_path / "out"]
    execute(command, tmp_path, PYTHONPATH=str(Path(outthink.__file__).parents[1]))
    found = results_of(tmp_path / "out")
    for family in FAMILIES:
        mine = [right for right, problem in zip(ours, problems, strict=True) if problem.family == family]
        right, reported = found[family]
        assert right == mine, family
        assert reported == pytest.approx(sum(mine) / len(mine))
    assert 0 < sum(ours) < len(ours), "problems that are all right or all wrong tell nothing"


def test_likelihoods_are_those_of_our_engine(server, environment, tmp_path):
    problems = choose(None, ["arithmetic"], [DIFFICULTY], 6, "test", 0)
    lines = [{"prompt": f"<|user|>{p.prompt}<|assistant|>", "solution": p.solution} for p in problems]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "task.yaml").write_text(_LIKELIHOOD.format(file=json.dumps(str(tmp_path / "lines.jsonl"))))
    with outthink.load() as model:
        source = str(model.loaded.source)

        async def score(line):
            async with await model.session().root(line["prompt"]) as root:
                return sum(await root.score(line["solution"]))

        ours = [asyncio.run(score(line)) for line in lines]
    options = {
        "model": "outthink-m", "base_url": f"{server.api}/completions", "tokenizer_backend": "huggingface",
        "tokenizer": source, "max_retries": 1, "max_length": 1024,
    }  # fmt: skip
    command = [environment("lm-eval"), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args"]
    command += [",".join(f"{name}={value}" for name, value in options.items())]
    command += ["--include_path", tmp_path, "--tasks", "outthink_likelihood", "--batch_size", "1"]
    execute([*command, "--log_samples", "--output_path", tmp_path / "out"], tmp_path)
    [samples] = (tmp_path / "out").rglob("samples_outthink_likelihood_*.jsonl")
    told = {s["doc_id"]: s["resps"][0][0] for s in map(json.loads, samples.read_text().splitlines())}
    value = [each[0] if isinstance(each, list) else each for each in (told[k] for k in range(len(lines)))]
    assert [float(each) for each in value] == pytest.approx(ours, abs=1e-3)


_LIKELIHOOD = """\
task: outthink_likelihood
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{solution}}}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
  - metric: acc
"""
