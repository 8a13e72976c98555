"""What is drawn of a search: the same whether it comes from memory or from a stored record, and of one that grows."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.core.budget import Bill
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.thought import Thought
from outthink.show import copied, live_view, page, read_record, record_of, view_of
from outthink.show.merge import condensed
from outthink.show.page import SCRIPTS, bundle, page_data

QUESTION = Question("what?", parse_answer, lambda answer: answer == "1")


@st.composite
def posteriors(draw):
    """Random trees with lines that were ruled out, given up or weighed, and the posterior of the last."""
    tree = Thought()
    thoughts = [tree.child()]
    for _ in range(draw(st.integers(1, 20))):
        child = thoughts[draw(st.integers(0, len(thoughts) - 1))].child()
        child.text, child.finish = draw(st.text("ab\n", max_size=6)), "stop"
        child.tokens, child.log_prob = draw(st.integers(0, 9)), -draw(st.floats(0, 9))
        child.value = draw(st.sampled_from([None, 0.5, -math.inf]))
        thoughts.append(child)
    candidates = []
    for end in thoughts[1:]:
        if not end.children and end.value != -math.inf:
            end.answer, end.fate = draw(st.sampled_from(["1", "2", "3"])), draw(st.sampled_from([None, "chosen"]))
            candidates.append(Candidate(end.answer, -draw(st.floats(0, 5)), end.text, end))
    bill = Bill(decoded=sum(t.tokens for t in thoughts), seconds=0.5)
    return Posterior(tuple(candidates), cost=bill, tree=tree, method="mcts", attempts=len(thoughts), stopped="budget")


@given(posteriors())
def test_a_stored_record_is_drawn_as_the_posterior_itself(posterior):
    facts = {"model": "m"}
    stored = json.loads(json.dumps(record_of(posterior), allow_nan=False))
    again = view_of(read_record(stored), QUESTION, facts)
    own = json.loads(json.dumps(page_data(posterior, QUESTION, facts)))
    for view in (own, again):  # an infinite value is stored as none, beside the fate that says what it meant
        for passage in view["passages"]:
            passage["lines"] = [{**line, "value": None} for line in passage["lines"]]
            passage["steps"] = [{**step, "value": None} for step in passage["steps"]]
    assert json.loads(json.dumps(again)) == own


def test_a_record_without_the_additions_is_still_drawn():
    tree = Thought()
    line = tree.child().child()
    line.text, line.answer, line.finish, line.weight = "answer: 1\n", "1", "stop", 1.0
    posterior = Posterior((Candidate("1", 0.0, line.text, line),), tree=tree, attempts=1)
    view = view_of(read_record(json.loads(json.dumps(posterior.to_json()))), QUESTION, {})
    assert view["best"] == "1" and [one["won"] for one in view["passages"][0]["lines"]] == [True]


def test_equal_lines_are_one_record_with_the_range_of_what_differs():
    line = {"won": False, "answer": "1", "fate": None, "finish": "stop", "value": None, "visits": None}
    found = condensed([{**line, "log_prob": -x, "tokens": 3, "weight": None} for x in (1.0, 3.0, 2.0)])
    assert found == [{**line, "count": 3, "log_prob": [-3.0, -1.0], "tokens": 3, "weight": None}]
    apart = [{**line, "log_prob": 0.0, "tokens": 1, "weight": None, "won": won} for won in (True, False)]
    assert [one["count"] for one in condensed(apart)] == [1, 1]


def test_a_search_that_grows_shows_what_ended_and_what_is_being_written():
    tree = Thought()
    prompt = tree.child()
    for text in ("answer: 1\n", "answer: 1\n", "answer: 2\n", ""):
        child = prompt.child()
        child.text, child.finish = text, "stop" if text else None
    view = live_view(copied(tree), Bill(decoded=9), 0.5, QUESTION, "majority-vote", {})
    assert [(a["answer"], a["right"]) for a in view["answers"]] == [("1", True), ("2", False)]
    assert (view["live"], view["best"], view["confidence"]) == (True, "1", pytest.approx(2 / 3))
    assert sum(passage["growing"] for passage in view["passages"]) == 1
    assert sum(line["count"] for passage in view["passages"] for line in passage["lines"]) == 3


def test_a_copy_does_not_change_with_its_original():
    tree = Thought()
    child = tree.child().child()
    twin = copied(tree)
    child.text = "later"
    child.child()
    assert [thought.text for thought in twin.walk()] == ["", "", ""]


def test_a_bundle_has_each_module_after_those_that_it_imports():
    assert "import " not in bundle(SCRIPTS) and "\nexport " not in bundle(SCRIPTS)
    with pytest.raises(ValueError, match=r"tree\.js imports dom\.js"):
        bundle(("tree.js", "dom.js"))
    assert {file.name for file in page.ASSETS.glob("*.js")} == set(SCRIPTS)
