"""``outthink compare``: strategies side by side, each as if it had run alone."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from cli.tiny_model import PROBLEM, RIGHT
from lm.fake_server import FakeServer, Offer
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import UserError
from outthink.core.sampling import Sampling
from outthink.lm.model import load
from outthink.reason import STRATEGIES
from outthink.reason.scale import Room, scale_of
from outthink.reason.solve import ask, think

NAMES = ("greedy", "majority-vote", "particle-filter", "mcts")


def test_each_row_is_what_the_strategy_finds_by_itself(run, model):
    ran = run("compare", PROBLEM, "-m", model, "-s", "greedy,vote,particle-filter,mcts", "-b", "600", "--json",
              "--verifier", "step-oracle", "--seed", 3)  # fmt: skip
    assert ran.code == 0
    assert [row["strategy"] for row in ran.json["results"]] == list(NAMES)
    with load(model) as loaded:
        question = ask(PROBLEM)
        room = Room.before(loaded, question, Budget("600"))
    for row in ran.json["results"]:
        judge = "step-oracle" if scale_of(row["strategy"]).verifier else None
        with load(model) as alone:  # nothing is in its cache
            lm = alone.session(Ledger(Budget("600")), Sampling(seed=3))
            found = asyncio.run(think(question, lm, row["strategy"], judge, **scale_of(row["strategy"]).options(room)))
        assert (row["verifier"], row["best"], row["stopped"]) == (judge, found.best, found.stopped)
        assert row["weights"] == pytest.approx(found.weights)
        assert {**row["cost"], "seconds": 0} == {**found.cost.to_json(), "seconds": 0}
        assert row["right"] is (None if found.best is None else found.best == RIGHT)
        assert row["cost"]["cached"] == 0
        assert row["error"] is None


def test_the_table_says_who_is_right_and_what_it_cost(run, model):
    command = ["compare", PROBLEM, "-m", model, "-s", "majority-vote,best-of-n", "-b", "400", "--verifier", "exact"]
    ran, told = run(*command), run(*command, "--json")
    assert ran.code == 0
    for row in told.json["results"]:
        line = next(line for line in ran.out.splitlines() if line.startswith(row["strategy"]))
        assert ("✓ right" if row["right"] else "✗ wrong") in line
        for figure in (row["best"], f"{row['cost']['tokens']:,}", str(row["cost"]["verifier_calls"])):
            assert figure in line.split()
    assert "400 tokens" in ran.out


def test_an_error_in_one_strategy_loses_no_other(run, model):
    command = ["compare", PROBLEM, "-m", model, "-s", "greedy,sample-until-verified,majority-vote", "-b", "300"]
    ran = run(*command, "--json")
    assert ran.code == 1
    first, failed, last = ran.json["results"]
    assert "needs a verifier" in failed["error"]
    assert "best" not in failed
    assert first["attempts"] == 1
    assert last["best"] is not None
    shown = run(*command)
    assert shown.code == 1
    assert "sample-until-verified failed: sample-until-verified needs a verifier that can accept a line" in shown.out


@pytest.mark.parametrize(
    ("offer", "able"),
    [
        (Offer(), {"majority-vote", "particle-filter", "mcts"}),
        (Offer(completions=False, continues=False, logprobs=-1, ids=False), {"majority-vote"}),
    ],
)
def test_at_a_server_each_strategy_answers_or_refuses_before_anything_is_spent(run, offer, able):
    """token-beam names tokens by id, which a chat does not give; the others go on from partly written lines."""
    names = ["majority-vote", "particle-filter", "mcts", "token-beam"]
    fake = FakeServer(offer)
    try:
        options = ("--base-url", fake.url, "-b", "120", "--json", "--seed", 1)
        rows = {row["strategy"]: row for row in run("compare", "ab", "-s", ",".join(names), *options).json["results"]}
        assert list(rows) == names
        assert {name for name in names if rows[name]["error"] is None} == able
        assert all(0 < rows[name]["cost"]["tokens"] <= 120 for name in able)
        assert all("Nothing was spent" in rows[name]["error"] for name in names if name not in able)
        counts = []
        for name in ("token-beam", "majority-vote"):
            before = len(fake.requests)
            run("compare", "ab", "-s", name, *options)
            counts.append(len(fake.requests) - before)
        assert counts[0] < counts[1], "the one that refused asked for more than what the server offers"
    finally:
        fake.close()


def test_flops_that_a_server_does_not_tell_are_no_zeros(run):
    fake = FakeServer(Offer())
    try:
        asked = ("compare", "ab", "-s", "majority-vote", "-b", "60", "--base-url", fake.url)
        unknown, known = run(*asked).out, run(*asked, "--server", "parameters=5e8").out
    finally:
        fake.close()
    cells = [
        [cell.strip() for cell in next(line for line in told.splitlines() if "majority" in line).split("  ") if cell]
        for told in (unknown, known)
    ]
    assert "-" in cells[0]
    assert "-" not in cells[1]


@pytest.mark.parametrize("command", ["solve", "compare", "generate"])
def test_how_a_server_is_treated_is_said_by_name(run, command, monkeypatch):
    """What is said reaches `connect`, of the right kind; what is no option, or out of range, is the user's mistake."""
    seen = {}

    def connect(base_url, model, **options):
        seen.update(options)
        raise UserError("far enough")

    monkeypatch.setattr("outthink.lm.remote.connect", connect)
    asked = (command, "ab", "--base-url", "http://127.0.0.1:9/v1")
    told = run(*asked, "--server", "concurrency=4", "--server", "read-timeout-s=2.5", "--server", "retries=0")
    assert (told.code, "far enough" in told.err) == (2, True)
    assert (seen["concurrency"], seen["read_timeout_s"], seen["retries"]) == (4, 2.5, 0)
    for pair, why in (("patience=3", "no such option"), ("concurrency=many", "whole number")):
        ran = run(*asked, "--server", pair)
        assert (ran.code, why in ran.err) == (2, True), ran.err
    ran = run(command, "ab", "--server", "retries=1")
    assert (ran.code, "--base-url" in ran.err) == (2, True)


def test_trees_are_written_a_page_each(run, model, tmp_path):
    pages = tmp_path / "deep" / "trees"
    ran = run("compare", PROBLEM, "-m", model, "-s", "greedy,majority-vote", "-b", "200", "--tree", pages, "--json")
    assert ran.code == 0
    for row in ran.json["results"]:
        assert row["tree"] == str(pages / f"{row['strategy']}.html")
        page = (pages / f"{row['strategy']}.html").read_text()
        assert row["strategy"] in page
        assert "</html>" in page


def test_ctrl_c_answers_with_what_there_is_and_skips_the_rest(run, model, monkeypatch):
    begun = []

    async def interrupted(question, lm, strategy, *args, **options):
        begun.append(strategy)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGINT)
        return await think(question, lm, strategy, *args, **options)

    monkeypatch.setattr("outthink.reason.solve.think", interrupted)
    ran = run("compare", PROBLEM, "-m", model, "-s", "greedy,majority-vote,mcts", "-b", "300", "--json")
    assert ran.code == 130
    assert begun == ["greedy", "majority-vote"]
    first, cut, skipped = ran.json["results"]
    assert ran.json["interrupted"] is True
    assert first["attempts"] == 1
    assert cut["stopped"] == "budget"
    assert "best" not in skipped
    assert skipped["error"] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["x", "-s", "gready"], ["'gready'", "Did you mean 'greedy'?"]),
        (["x", "-s", "greedy,,mcts"], ["empty part"]),
        (["x", "-b", "4k tokns"], ["'4k tokns'"]),
        (["x", "--verifier", "exakt"], ["'exakt'", "exact"]),
        ([""], ["problem is empty"]),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(run, arguments, named):
    ran = run("compare", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    for text in named:
        assert text in ran.err


def test_a_file_is_no_directory_for_trees(run, tmp_path):
    (tmp_path / "file").write_text("")
    ran = run("compare", "x", "--tree", tmp_path / "file")
    assert ran.code == 2
    assert "is a file" in ran.err


def test_without_a_budget_strategies_keep_their_own_options(run, model):
    told = run("compare", PROBLEM, "-m", model, "-s", "majority-vote", "--json").json
    assert told["budget"] == "unlimited"
    assert told["results"][0]["options"] == {}
    assert told["results"][0]["attempts"] == STRATEGIES.get("majority-vote").options["n"]
    assert json.dumps(told)
