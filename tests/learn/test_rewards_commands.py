"""Labelling, training, judging and comparing as commands, with a bundled model on a few easy problems."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outthink.core.errors import UserError
from outthink.learn.rewards.rollouts import LabelConfig, label
from outthink.learn.rewards.store import read_labels
from outthink.lm.model import Model, bundled_models, load

EASY = {"suite": "arithmetic", "hardest": 0.1, "rollouts": 2, "max_tokens": 60}


@pytest.fixture(scope="module")
def policy() -> Iterator[Model]:
    with load(bundled_models()[0]) as model:
        yield model


def records(path: Path) -> list:
    return [record.to_json() for record in read_labels(path)[1]]


class StoppedError(Exception):
    """Thrown by the progress of a test, as a failure in the middle of the work would be."""


def test_interrupted_labels_are_the_same_in_the_end(policy: Model, tmp_path: Path) -> None:
    def stop_after_three(done: int, total: int, _: str) -> None:
        if done == 3:
            raise StoppedError

    config = LabelConfig(num_problems=8, concurrency=4, **EASY)
    with pytest.raises(StoppedError):
        label(policy, config, tmp_path / "stopped.jsonl.gz", stop_after_three)
    # What had finished is there, and nothing of the engine stays taken.
    assert len(records(tmp_path / "stopped.jsonl.gz")) == 3
    label(policy, config, tmp_path / "stopped.jsonl.gz")
    label(policy, LabelConfig(num_problems=8, concurrency=1, **EASY), tmp_path / "whole.jsonl.gz")
    stopped, whole = records(tmp_path / "stopped.jsonl.gz"), records(tmp_path / "whole.jsonl.gz")
    assert stopped == whole and [record["index"] for record in whole] == list(range(8))
    assert all(record["tokens"]["decoded"] > 0 for record in whole)
    with pytest.raises(UserError, match="other settings: rollouts"):
        label(policy, LabelConfig(**{**EASY, "rollouts": 3}), tmp_path / "whole.jsonl.gz")


def run(*arguments: object) -> tuple[int, str, str]:
    from outthink.cli.app import app

    result = CliRunner().invoke(app, ["reward", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_from_labels_to_figures(tmp_path: Path) -> None:
    model, easy = bundled_models()[0], ("--suite", "arithmetic", "--hardest", 0.1, "--max-tokens", 60)
    labels = {}
    for name in ("monte-carlo", "binary-search"):
        labels[name] = tmp_path / f"{name}.jsonl.gz"
        options = ("--labels", name, "--problems", 12, "--lines", 2, "--rollouts", 2, "--json")
        code, out, _ = run("label", "--model", model, *options, *easy, "-o", labels[name])
        told = json.loads(out)
        assert code == 0 and told["problems"] == 12 and told["lines"] == 24
        assert told["decoded"] == sum(record["tokens"]["decoded"] for record in records(labels[name]))
    code, out, _ = run("compare", *labels.values(), "-o", tmp_path / "compared.json")
    assert code == 0 and "monte-carlo" in out and "binary-search" in out
    assert (tmp_path / "compared.png").stat().st_size > 1000
    small = (
        "--set",
        "widths=64,128",
        "--set",
        "micro_tokens=256",
        "--set",
        "epochs=1",
        "--set",
        "processes=1",
        "--json",
    )
    code, out, _ = run("train", "--labels", labels["monte-carlo"], "--model", model, *small, "-o", tmp_path / "prm")
    assert code == 0 and json.loads(out)["figures"]["marks"] > 12
    judged = ("--model", model, "-n", 6, "--lines", 2, *easy, "-o", tmp_path / "judged.json")
    code, out, _ = run("judge", tmp_path / "prm", *judged)
    assert code == 0 and "arithmetic" in out and "ECE" in out
    result = json.loads((tmp_path / "judged.json").read_text())
    steps = next(row for row in result["auc"] if row["what"] == "steps" and row["family"] == "all")
    assert steps["readings"] > 6 and steps["true"] > 0
    assert result["provenance"]["models"][0]["name"] == model and result["reward"]["kind"] == "process"
    assert (tmp_path / "judged.png").stat().st_size > 1000
    assert all(record["problem"]["family"] == "arithmetic" for record in records(tmp_path / "judged.lines.jsonl.gz"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["label", "-o", "{tmp}/x.jsonl.gz", "--labels", "montecarlo"], ["'montecarlo'", "monte-carlo"]),
        (["label", "-o", "{tmp}/x.jsonl.gz", "--rollouts", "0"], ["rollouts is 0"]),
        (["label", "-o", "{tmp}/x.jsonl.gz", "--suite", "nope"], ["'nope'", "outthink-core"]),
        (["label", "-o", "{tmp}/x.jsonl.gz", "--hardest", "1.5"], ["1.5"]),
        (["label", "-o", "{tmp}/x.jsonl.gz", "-n", "0"], ["num_problems is 0"]),
        (["label", "-o", "{tmp}/x.json"], ["must end in .jsonl.gz"]),
        (["train", "--labels", "{tmp}/none.jsonl.gz", "-o", "{tmp}/run"], ["none.jsonl.gz", "outthink reward label"]),
        (["train", "--labels", "{tmp}/x", "-o", "{tmp}/run", "--set", "speed=3"], ["no option speed", "epochs"]),
        (["train", "--labels", "{tmp}/x", "-o", "{tmp}/run", "--minutes", "0"], ["minutes is 0"]),
        (["judge", "{tmp}", "-o", "{tmp}/x.txt"], ["x.txt", ".json"]),
        (["judge", "{tmp}/nothing", "-o", "{tmp}/x.json"], ["nothing"]),
        (["compare", "{tmp}/none.jsonl.gz", "-o", "{tmp}/x.json"], ["none.jsonl.gz"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_mistakes_are_one_line_and_nothing_is_written(arguments, named, tmp_path: Path) -> None:
    code, out, err = run(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert code == 2 and out == "" and all(name in err for name in named), err
    assert "Traceback" not in err and not list(tmp_path.iterdir())
