"""The demo, on the bundled models and few problems."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from outthink.cli.app import app
from outthink.cli.demo import Trial, suite_of
from outthink.lm.model import bundled_models
from outthink.tasks.suites import draw_problems


@pytest.mark.parametrize("model", bundled_models())
def test_demo_tells_the_whole_story(model, tmp_path):
    page = tmp_path / "tree.html"
    result = CliRunner().invoke(app, ["demo", "--model", model, "--problems", "10", "--tree", str(page)])
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert f"{model} (" in text and f"10 problems of {suite_of(model)} that it was never trained on" in text
    assert "one greedy line" in text
    assert "sampling until the exact checker accepts a line" in text
    assert "over all 10 problems" in text
    assert len(re.findall(r"cost  [\d,]+ tokens", text)) == 3
    assert "<script" in page.read_text()
    greedy, vote, checked = re.findall(r"^answer  .*(right|wrong)|^no answer", text, re.MULTILINE)
    helped = [int(row[1]) for row in re.findall(r"^(vote|checked).*%\] +[\d,]+ +(\d+) ", text, re.MULTILINE)]
    wrong, mended, by_checking = map(
        int, re.search(r"Of (\d+) wrong .* mended (\d+) and checking (\d+)", text).groups()
    )
    assert helped == [mended, by_checking] and mended <= wrong
    if by_checking:  # a sound checker: there is a problem to show
        assert greedy == "wrong" and "right" in (vote, checked)
    assert ("was not mended" in text) == (by_checking == 0 == mended)


def test_the_problem_shown_is_the_one_that_says_most():
    [problem] = draw_problems("arithmetic", 0.2, "test", 1, 0)
    right, wrong = problem.answer, problem.answer + "1"

    def answered(answer, confidence=0.5, text=problem.solution):
        return SimpleNamespace(best=answer, confidence=confidence, best_line=SimpleNamespace(text=text))

    mended = Trial(problem, answered(wrong), answered(right), answered(right))
    order = [
        Trial(problem, answered(right), answered(right, 1.0), answered(right)),
        Trial(problem, answered(wrong), answered(wrong), answered(right)),
        replace(mended, vote=answered(right, 0.9, text="1 + 1 = 3\n")),  # by a wrong step
        mended,
        replace(mended, vote=answered(right, 0.9)),
    ]
    assert sorted((order[i] for i in (3, 0, 4, 1, 2)), key=lambda trial: trial.telling) == order


def test_models_are_asked_what_they_know():
    assert [suite_of(name) for name in ("arithmetic-s", "outthink-m", "outthink-s", "my-model", "model")] == [
        "arithmetic",
        *["outthink-core"] * 4,
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tree", "{tmp}/no/tree.html"], "no directory"),
        (["--problems", "0"], "--problems 0"),
        (["--suite", "nope"], "'nope'"),
    ],
)
def test_mistakes_are_refused(tmp_path, arguments, named):
    result = CliRunner().invoke(app, ["demo", *(argument.format(tmp=tmp_path) for argument in arguments)])
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output
