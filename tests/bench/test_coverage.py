"""Coverage is what its records say, the same whether or not it was interrupted, and its pictures show it."""

import asyncio
import itertools
import json
from dataclasses import replace

import pytest

from outthink.bench.coverage import CoverageConfig, Job, Outcome, cells, draw_jobs, measure, run
from outthink.bench.coverage_report import draw, markdown, read_result
from outthink.core.errors import UserError
from outthink.core.sampling import Sampling
from outthink.lm.model import load
from outthink.reason.solve import ask
from outthink.tasks.problem import Problem

CONFIG = CoverageConfig(suite="arithmetic", difficulties=(0.1, 0.4), num_problems=3, num_samples=8, seed=2)


@pytest.fixture(scope="module")
def model():
    with load("outthink-s") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole.json"
    return out, run(model, CONFIG, out)


def without_circumstances(result):
    return {key: result[key] for key in ("what", "models", "config", "complete", "cells")}


def outcome(index, greedy, right, family="paths", difficulty=0.5):
    return Outcome(family, difficulty, index, f"key{index}", 9, greedy, right, 4 * len(right), right.count("0"))


def test_coverage_is_the_share_of_subsets_with_a_right_sample():
    bits = ["1000", "0110", "0000", "1111"]
    [cell] = cells([outcome(i, b[0] == "1", b) for i, b in enumerate(bits)], (1, 2, 4))
    for k in (1, 2, 4):
        shares = [[any(c) for c in itertools.combinations([x == "1" for x in b], k)] for b in bits]
        assert cell.coverage[k].value == pytest.approx(sum(sum(s) / len(s) for s in shares) / 4)
    assert cell.greedy.value == 0.5
    assert (cell.gain_at, cell.gain.value) == (4, pytest.approx(0.75 - 0.5))
    assert cell.greedy.method == cell.coverage[4].method == "clopper-pearson"
    assert cell.coverage[2].method == "betting"
    assert cell.line_tokens == 4
    assert cell.unfinished == pytest.approx(9 / 16)
    assert cell.problems[1] == ("key1", 0, 2)


def test_cells_are_sorted_and_apart():
    made = cells([outcome(0, True, "11", difficulty=0.7), outcome(0, False, "00", "countdown")], (1, 2))
    assert [(cell.family, cell.difficulty, cell.greedy.value) for cell in made] == [
        ("countdown", 0.5, 0.0),
        ("paths", 0.7, 1.0),
    ]


async def test_a_record_is_what_the_model_says(model):
    """The bits are those of the root's children, drawn alone and in their order."""
    found = set()
    for job in draw_jobs(replace(CONFIG, num_problems=1)):
        kept = await measure(model, job, CONFIG)
        question = ask(job.problem)
        lm = model.session(sampling=Sampling(seed=2))
        root = await lm.root(question.prompt)
        lines = [line for _ in range(8) for line in await root.extend(1)]
        [greedy] = await root.extend(1, sampling=Sampling(temperature=0.0))
        right = [(answer := question.answer_of(line)) is not None and job.problem.check(answer) for line in lines]
        assert kept.right == "".join("01"[r] for r in right)
        assert kept.greedy == job.problem.check(question.answer_of(greedy) or "")
        assert kept.tokens == sum(len(line.tokens) for line in lines)
        assert (kept.key, kept.prompt_tokens) == (job.problem.key, len(lm.encode(question.prompt)))
        found |= set(kept.right)
    assert found == {"0", "1"}


def test_a_prompt_beyond_the_context_is_answered_wrongly(model):
    problem = Problem("arithmetic", 0.5, 0, "1 " * model.engine.max_positions, (), "1", "1")
    kept = asyncio.run(measure(model, Job(0, problem), CONFIG))
    assert kept.prompt_tokens > model.engine.max_positions
    assert (kept.greedy, kept.right, kept.tokens, kept.unfinished) == (False, "0" * 8, 0, 8)


def test_the_result_holds_together(measured):
    out, result = measured
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert result["complete"] and result["this_sitting"]["problems"] == 6
    assert [(c["family"], c["difficulty"], c["n"]) for c in result["cells"]] == [
        ("arithmetic", 0.1, 3),
        ("arithmetic", 0.4, 3),
    ]
    for cell in result["cells"]:
        values = [cell["coverage"][k]["value"] for k in ("1", "2", "4", "8")]
        assert values == sorted(values)
        assert values[0] == pytest.approx(sum(right for *_, right in cell["problems"]) / 24)


class KilledError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("after", [1, 4])
def test_a_kill_loses_only_what_was_in_flight(model, measured, tmp_path, after):
    out = tmp_path / "cut.json"

    def kill(done, _total, what):
        if done == after and what not in ("sampling", "drawing problems"):
            raise KilledError

    with pytest.raises(KilledError):
        run(model, CONFIG, out, kill)
    kept = len((tmp_path / "cut.records.jsonl").read_text().splitlines()) - 1
    assert kept >= after  # some that were in flight may have been finished as well
    result = run(model, CONFIG, out)
    assert result["this_sitting"]["problems"] == 6 - kept
    assert without_circumstances(result) == without_circumstances(measured[1])
    assert (
        out.with_suffix(".records.jsonl.gz").read_bytes() == measured[0].with_suffix(".records.jsonl.gz").read_bytes()
    )


def test_stopping_finishes_what_was_begun_and_more_problems_go_on(model, measured, tmp_path):
    out, polls = tmp_path / "stopped.json", iter(range(1000))
    part = run(model, CONFIG, out, stop=lambda: next(polls) >= 3)
    assert not part["complete"]
    assert [cell["n"] for cell in part["cells"]] == [2, 1]  # the first three, in their order
    grown = run(model, replace(CONFIG, num_problems=2), out)
    assert grown["complete"] and [cell["n"] for cell in grown["cells"]] == [2, 2]
    whole = run(model, replace(CONFIG, minutes=60.0), out)
    assert whole["cells"] == measured[1]["cells"]
    assert run(model, CONFIG, out)["this_sitting"]["problems"] == 0


def test_no_time_means_no_problems(model, tmp_path):
    result = run(model, replace(CONFIG, minutes=1e-9), tmp_path / "none.json")
    assert (result["cells"], result["complete"]) == ([], False)


def test_records_of_another_setting_are_refused(model, measured):
    with pytest.raises(UserError, match="seed was 2 and is 3"):
        run(model, replace(CONFIG, seed=3), measured[0])


def test_functional_suites_ask_the_same_problems_in_other_words():
    plain = draw_jobs(CONFIG)
    told = draw_jobs(replace(CONFIG, suite="arithmetic-functional"))
    assert [j.problem.canonical_key for j in plain] == [j.problem.canonical_key for j in told]
    assert any(a.problem.prompt != b.problem.prompt for a, b in zip(plain, told, strict=True))


def test_table_and_picture(measured, tmp_path):
    out, result = measured
    text = markdown(read_result(out))
    assert "| family | difficulty | problems | greedy | one sample | coverage at 4 |\n" in text
    first = result["cells"][0]
    greedy, covered = first["greedy"], first["coverage"]["4"]
    assert f"| arithmetic | 0.1 | 3 | {greedy['value']:.2f} [{greedy['low']:.2f}, {greedy['high']:.2f}] |" in text
    assert f"| {covered['value']:.2f} [{covered['low']:.2f}, {covered['high']:.2f}] |" in text
    draw(result, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("content", ["", "[]", '{"what": "something else"}'])
def test_other_files_are_no_results(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        read_result(tmp_path / "x.json")
