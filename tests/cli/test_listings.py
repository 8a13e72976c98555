"""``outthink methods``, ``tasks``, ``doctor``, ``train``: what they list is what there is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import outthink
from outthink.cli import doctor
from outthink.reason import STRATEGIES
from outthink.tasks.families import family_names, get_family
from outthink.tasks.problem import Problem


def test_version_and_help(run):
    assert run("--version").out == f"outthink {outthink.__version__}\n"
    helped = run("--help")
    assert helped.code == 0
    for command in ("solve", "generate", "methods", "tasks", "train", "bench", "doctor"):
        assert command in helped.out
    assert run("solve", "-h").out == run("solve", "--help").out


def test_methods_are_those_of_the_registry(run):
    told = run("methods", "--json").json
    assert {record["name"] for record in told} == set(STRATEGIES.names())
    for record in told:
        method = STRATEGIES.get(record["name"])
        assert record["options"] == json.loads(json.dumps(method.options))
        assert (record["guarantee"], record["paper"]) == (method.guarantee, method.paper)
    listed = run("methods").out
    assert all(name in listed for name in STRATEGIES.names())
    assert {record["family"] for record in run("methods", "-f", "decoding", "--json").json} == {"decoding"}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_method_is_shown_with_paper_and_options(run, name):
    method = STRATEGIES.get(name)
    shown = " ".join(run("methods", "show", name).out.split())
    for text in (method.guarantee, method.promise, method.paper, *(f"{o} = {d}" for o, d in method.options.items())):
        assert " ".join(text.split()) in shown
    assert run("methods", "show", name, "--json").json["name"] == name


def test_tasks_are_those_of_the_registry(run):
    assert [record["name"] for record in run("tasks", "--json").json] == family_names()
    listed = run("tasks").out
    assert all(name in listed for name in family_names())


@pytest.mark.parametrize("name", family_names())
def test_a_problem_is_shown_with_its_solution(run, name):
    problem = get_family(name).generate(7, 0.4)
    told = run("tasks", "show", name, "-d", 0.4, "--seed", 7, "--json").json
    assert (told["prompt"], told["answer"], told["solution"]) == (problem.prompt, problem.answer, problem.solution)
    assert (told["split"], told["canonical_key"]) == (problem.split, problem.canonical_key)
    shown = run("tasks", "show", name, "-d", 0.4, "--seed", 7).out.split()
    for text in (problem.prompt, problem.solution):
        assert contains(shown, text.split())


def contains(words: list[str], part: list[str]) -> bool:
    return any(words[at : at + len(part)] == part for at in range(len(words)))


def test_exported_problems_are_whole_and_of_their_split(run, tmp_path):
    target = tmp_path / "deep" / "export"
    told = run("tasks", "export", target, "-f", "arithmetic", "-d", 0.2, "-d", 0.6, "-n", 15, "--json")
    assert told.code == 0
    [entry] = told.json
    rows = [json.loads(line) for line in Path(entry["problems"]).read_text().splitlines()]
    assert entry["num_problems"] == len(rows) == 30
    assert len({row["canonical_key"] for row in rows if row["difficulty"] == 0.2}) == 15
    for row in rows:
        assert row["split"] == "test"
        assert rebuilt(row).check(row["answer"])


def rebuilt(row: dict) -> Problem:
    names = ("family", "difficulty", "seed", "prompt", "answer", "canonical", "data")
    return Problem(**{name: row[name] for name in names}, steps=tuple(row["steps"]))


def test_the_exported_checker_judges_as_the_family_does(run, tmp_path):
    run("tasks", "export", tmp_path, "-n", 40)
    spec = importlib.util.spec_from_file_location("outthink_check", tmp_path / "outthink_check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) > 1
    group = (tmp_path / "outthink.yaml").read_text()
    for file in files:
        task = (tmp_path / f"outthink_{file.stem}.yaml").read_text()
        assert f"task: outthink_{file.stem}\n" in task
        assert json.dumps(str(file)) in task
        assert f"  - outthink_{file.stem}\n" in group
        for row in map(json.loads, file.read_text().splitlines()):
            assert check.process_results(row, [row["solution"]]) == {"exact_match": 1.0}
            assert check.process_results(row, [row["solution"].replace("answer: ", "answer: x")]) == {
                "exact_match": 0.0
            }
            assert check.process_results(row, ["I do not know"]) == {"exact_match": 0.0}


def test_doctor_tells_what_is_missing_and_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"surely_not_there": ("some-package", "nothing"), "json": ("json", "all")})
    told = run("doctor", "--json").json
    assert told["optional parts"]["surely_not_there"] == "missing (nothing): pip install some-package"
    assert told["optional parts"]["json"] == "importable (all)"
    shown = " ".join(run("doctor").out.split())
    for section, rows in told.items():
        assert section in shown
        assert all(name in shown for name in rows)
    assert outthink.__version__ in shown


def test_training_is_one_command(run, tmp_path):
    command = ["train", "-o", tmp_path / "run", "--size", "XS", "--suite", "arithmetic", "--steps", 1]
    command += ["--set", "batch_tokens=512", "--set", "micro_tokens=512", "--set", "context=128"]
    ran = run(*command, "--json")
    assert ran.code == 0
    trained = Path(ran.json["model"])
    assert ran.json["config"]["batch_tokens"] == 512
    said = run("generate", "compute 1 + 1", "--chat", "-m", trained, "--max-tokens", 4, "--json")
    assert said.code == 0
    assert said.json["choices"][0]["tokens"] >= 1
