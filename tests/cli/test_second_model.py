"""``outthink solve`` with a second model by name, and with strategies combined in one word."""

from __future__ import annotations

from cli.tiny_model import PROBLEM


def test_a_second_model_is_an_option_of_the_strategy(run, model):
    ran = run("solve", PROBLEM, "-m", model, "-s", "speculative-steps", "-o", f"draft={model}", "-n", 3, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["config"]["options"]["draft"] == str(model)
    assert ran.json["attempts"] == 3
    drawn = sum(node["tokens"] for node in ran.json["tree"]["nodes"] if node["finish"] is not None)
    assert ran.json["cost"]["decoded"] == drawn > 0


def test_without_it_the_strategy_says_how_to_name_it(run, model):
    ran = run("solve", PROBLEM, "-m", model, "-s", "two-models")
    assert ran.code == 2
    assert "-o second=" in ran.err


def test_a_second_model_that_is_not_there_is_the_user_s_mistake(run, model, tmp_path):
    ran = run("solve", PROBLEM, "-m", model, "-s", "two-models", "-o", f"second={tmp_path / 'none'}")
    assert ran.code == 2
    assert "none" in ran.err


def test_strategies_combine_in_one_word(run, model, tmp_path):
    page = tmp_path / "tree.html"
    text = f"then(greedy, ensemble(majority-vote(n=4), speculative-steps(draft={model}, n=2)), below=1)"
    ran = run("solve", PROBLEM, "-m", model, "-s", text.replace("below=1", "below=0.999"), "--tree", page, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["attempts"] == 7 or ran.json["stopped"] == "greedy was sure"
    assert page.stat().st_size > 1000
    wrong = run("solve", PROBLEM, "-m", model, "-s", "then(greedy)")
    assert wrong.code == 2
    assert "ways to combine" in wrong.err


def test_texts_among_options_may_have_line_breaks(run, model):
    told = ("-o", r"answer=\nanswer: 7", "-o", "most=1", "-o", r"ends=</think>,\nanswer:", "-n", 2, "--json")
    ran = run("solve", PROBLEM, "-m", model, "-s", "budget-forcing", *told)
    assert ran.code == 0, ran.err
    assert ran.json["config"]["options"]["answer"] == "\nanswer: 7"
    assert ran.json["config"]["options"]["ends"] == ["</think>", "\nanswer:"]
    assert any(node["text"].startswith("\nanswer: 7") for node in ran.json["tree"]["nodes"])
