"""``outthink twist`` and ``outthink evidence``: that they tell what the library finds, and work together with solve."""

from __future__ import annotations

import pytest

import outthink
from cli.tiny_model import PROBLEM, RIGHT

GOAL = ("--potential", "matches:answer: 22")


@pytest.fixture(scope="module")
def twist(model, tmp_path_factory):
    """A file that the command wrote, and what it told."""
    from typer.testing import CliRunner

    from outthink.cli.app import app

    file = tmp_path_factory.mktemp("twists") / "twist.json"
    ran = CliRunner().invoke(app, ["twist", PROBLEM, "-m", str(model), *GOAL, "-n", "64", "-o", str(file)])
    assert ran.exit_code == 0, ran.stderr
    return file, ran.stdout


def test_a_twist_is_learned_told_and_written(run, model, twist, tmp_path):
    file, told = twist
    assert "from 64 lines" in told
    assert "on lines kept out" in told
    again = run("twist", PROBLEM, "-m", model, *GOAL, "-n", 64, "-o", tmp_path / "again.json", "--json")
    assert (again.code, again.json["lines"]) == (0, 64)
    assert (tmp_path / "again.json").read_text() == file.read_text()
    assert again.json["cost"]["tokens"] > 64


@pytest.mark.parametrize("options", [(), ("twist=step-oracle",), ("twist=FILE",), ("twist=FILE", "potential=brief:1")])
def test_solve_takes_twists_and_potentials_by_name(run, model, twist, options):
    chosen = [part for option in options for part in ("-o", option.replace("FILE", str(twist[0])))]
    ran = run("solve", PROBLEM, "-m", model, "-s", "twisted-smc", "-n", 32, "--verifier", "exact", *chosen, "--json")
    assert ran.code == 0
    assert ran.json["log_evidence"] < 0
    if "potential=brief:1" not in options:
        assert ran.json["weights"] == {RIGHT: pytest.approx(1.0)}


def test_solve_is_guided_by_the_bundled_reward_model(run, model):
    options = ("-s", "twisted-smc", "-n", 8, "-o", "twist=prm", "--verifier", "exact")
    ran = run("solve", PROBLEM, "-m", model, *options, "--json")
    assert (ran.code, ran.json["best"]) == (0, RIGHT)
    assert ran.json["cost"]["verifier_tokens"] > 0


def test_bounds_are_the_librarys(run, model, twist):
    import asyncio

    ran = run("evidence", PROBLEM, "-m", model, *GOAL, "--twist", twist[0], "-n", 16, "--runs", 6, "--json")
    assert ran.code == 0
    with outthink.load(str(model)) as loaded:
        lm, question = loaded.session(), outthink.ask(PROBLEM)
        bounds = outthink.evidence_bounds(question, lm, GOAL[1], lm.ledger, twist=str(twist[0]), n=16, runs=6)
        found = asyncio.run(bounds)
    assert ran.json["lower"] == pytest.approx(found.lower)
    assert ran.json["upper"] == pytest.approx(found.upper)
    assert ran.json["exact"] == found.exact == 6
    assert ran.json["gap"] == pytest.approx(found.gap)


def test_bounds_are_told_and_what_to_do_without(run, model):
    told = run("evidence", PROBLEM, "-m", model, "--potential", "brief:0.2", "-n", 4, "--runs", 4)
    assert told.code == 0
    assert "from 4 runs of 4 particles" in told.out
    assert "nats" in told.out
    none = run("evidence", PROBLEM, "-m", model, "--potential", "matches:never", "-n", 2, "--runs", 2, "--draws", 4)
    assert none.code == 0
    assert "from 0 exact draws" in none.out
    assert "--draws" in none.err
    assert "a twist" in none.err
    assert "gap" not in none.out


def test_mistakes_exit_with_2_before_a_model_is_loaded(run, tmp_path):
    for arguments, told in (
        (("evidence", PROBLEM), "--potential or --verifier"),
        (("evidence", PROBLEM, *GOAL, "--verifier", "exact"), "one of the two"),
        (("evidence", PROBLEM, "--potential", "heavy:1"), "Unknown potential"),
        (("evidence", PROBLEM, "--verifier", "nobody"), "Unknown verifier"),
        (("twist", PROBLEM, *GOAL, "-o", tmp_path / "twist.txt"), "must end in .json"),
        (("twist", PROBLEM, *GOAL, "-o", tmp_path / "no" / "twist.json"), "There is no directory"),
    ):
        ran = run(*arguments, "-m", "no-such-model")
        assert (ran.code, ran.out) == (2, "")
        assert told in " ".join(ran.err.split())
