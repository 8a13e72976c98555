"""``outthink solve``: that it tells what the library found, in each of its forms."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

import outthink
from cli.tiny_model import PROBLEM, RIGHT


@pytest.fixture
def posterior(model):
    """What the library itself finds for the same question."""
    return outthink.solve(PROBLEM, model=str(model), n=32, sampling=outthink.Sampling(seed=3))


def test_json_is_the_librarys_posterior(run, model, posterior):
    ran = run("solve", PROBLEM, "-m", model, "-n", 32, "--seed", 3, "--json")
    assert ran.code == 0
    told = ran.json
    assert told["weights"] == pytest.approx(posterior.weights)
    assert (told["best"], told["attempts"], told["stopped"]) == (posterior.best, 32, "finished")
    assert told["right"] is (posterior.best == RIGHT)
    assert told["cost"]["tokens"] == posterior.cost.tokens
    assert len(told["tree"]["nodes"]) == len(list(posterior.tree.walk()))
    assert told["config"]["sampling"]["seed"] == 3
    assert told["config"]["options"] == {"n": 32, "max_tokens": None}


def test_seed_changes_the_lines(run, model):
    lines = [run("solve", PROBLEM, "-m", model, "-n", 8, "--seed", seed, "--json").json["tree"] for seed in (0, 0, 1)]
    assert lines[0] == lines[1] != lines[2]


def test_report_tells_answer_confidence_shares_line_and_bill(run, model, posterior):
    ran = run("solve", PROBLEM, "-m", model, "-n", 32, "--seed", 3)
    assert ran.code == 0
    agreeing = sum(c.answer == posterior.best for c in posterior.candidates)
    assert ran.out.splitlines()[0].split() == [
        "answer",
        posterior.best,
        *(["✓", "right"] if posterior.best == RIGHT else ["✗", "wrong"]),
    ]
    assert f"{agreeing} of 32 lines reach it" in ran.out
    for answer, share in posterior.weights.items():
        assert any(row.startswith(answer) and f"{share:.1%}" in row for row in ran.out.splitlines())
    assert posterior.best_line.text.strip().splitlines()[-1] in ran.out
    assert f"{posterior.cost.tokens:,} tokens" in ran.out
    assert ran.err == ""  # no terminal, no progress


def test_quiet_prints_the_answer_alone(run, model, posterior):
    ran = run("solve", PROBLEM, "-m", model, "-n", 32, "--seed", 3, "-q")
    assert (ran.code, ran.out, ran.err) == (0, f"{posterior.best}\n", "")


def test_problem_from_stdin(run, model):
    given = run("solve", PROBLEM, "-m", model, "-n", 4, "--json")
    piped = run("solve", "-", "-m", model, "-n", 4, "--json", stdin=PROBLEM + "\n")
    assert piped.json["tree"] == given.json["tree"]


def test_options_of_the_strategy(run, model):
    ran = run(
        "solve", PROBLEM, "-m", model, "-s", "sample-until-verified", "--verifier", "exact", "-o", "width=2", "--json"
    )
    assert ran.code == 0
    assert (ran.json["best"], ran.json["right"], ran.json["stopped"]) == (RIGHT, True, "verified")
    assert ran.json["config"]["options"]["width"] == 2
    assert ran.json["confidence_means"].startswith("the verifier accepted it, after")


def test_numbers_that_json_has_not_are_null(run, model):
    ran = run(
        "solve", PROBLEM, "-m", model, "-s", "sample-until-verified", "--verifier", "exact", "--seed", 1, "--json"
    )
    values = [node["value"] for node in ran.json["tree"]["nodes"] if node["finish"] is not None]
    assert set(values) <= {0.0, None}
    assert "Infinity" not in ran.out


@pytest.mark.parametrize("strategy", ["mcts", "a-star", "vote"])
def test_a_budget_is_what_ends_the_work_as_in_compare(run, model, strategy):
    solved = run("solve", PROBLEM, "-m", model, "-s", strategy, "-b", "600", "--seed", 2, "--json").json
    [row] = run("compare", PROBLEM, "-m", model, "-s", strategy, "-b", "600", "--seed", 2, "--json").json["results"]
    assert 0.9 * 600 <= solved["cost"]["tokens"] == row["cost"]["tokens"] <= 600
    assert solved["weights"] == pytest.approx(row["weights"])
    assert row["options"].items() <= solved["config"]["options"].items()
    sampling = outthink.Sampling(seed=2)
    library = outthink.solve(PROBLEM, model=str(model), strategy=strategy, budget=600, sampling=sampling)
    assert library.cost.tokens == solved["cost"]["tokens"]


def test_options_set_by_hand_stay_under_a_budget(run, model):
    told = run("solve", PROBLEM, "-m", model, "-s", "mcts", "-b", "4k", "-n", 3, "-o", "width=2", "--json").json
    assert (told["config"]["options"]["n"], told["config"]["options"]["width"]) == (3, 2)
    assert told["cost"]["tokens"] < 400
    told = run("solve", PROBLEM, "-m", model, "-s", "ensemble(majority-vote(n=2), greedy)", "-b", "4k", "--json").json
    assert told["attempts"] == 3


def test_no_budget_no_answer_no_error(run, model):
    ran = run("solve", PROBLEM, "-m", model, "-b", "0")
    assert ran.code == 0
    assert ran.out.startswith("no answer\n")
    assert "the budget ran out" in ran.out
    quiet = run("solve", PROBLEM, "-m", model, "-b", "0", "-q")
    assert (quiet.code, quiet.out) == (0, "\n")


def test_greedy_confidence_is_a_lines_probability(run, model):
    ran = run("solve", PROBLEM, "-m", model, "-s", "greedy", "-o", "max_tokens=6")
    assert ran.code == 0
    assert "the probability that the model gives its own greedy line" in ran.out or ran.out.startswith("no answer")


def test_tree_page_holds_this_very_posterior(run, model, tmp_path, posterior):
    page = tmp_path / "tree.html"
    ran = run("solve", PROBLEM, "-m", model, "-n", 32, "--seed", 3, "--tree", page)
    assert ran.code == 0
    assert str(page) in ran.err.replace("\n", "")
    data = json.loads(_script(page.read_text("utf-8"), "data"))
    assert {entry["answer"]: entry["share"] for entry in data["answers"]} == pytest.approx(posterior.weights)
    assert sum(line["count"] for passage in data["passages"] for line in passage["lines"]) == 32
    assert data["bill"]["tokens"] == posterior.cost.tokens == sum(part["tokens"] for part in data["spending"])


def _script(page: str, name: str) -> str:
    class Reader(HTMLParser):
        inside, text = False, ""

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "script" and dict(attrs).get("id") == name

        def handle_endtag(self, tag):
            self.inside = False

        def handle_data(self, data):
            self.text += data if self.inside else ""

    reader = Reader()
    reader.feed(page)
    return reader.text
