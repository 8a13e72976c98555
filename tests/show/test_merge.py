"""Merging lines for reading: exact small trees, and laws on random ones."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from outthink.core.thought import Thought
from outthink.show.merge import passages, split_steps
from outthink.show.spending import AGREEING, WINNER, spending


def vote(*texts: str) -> tuple[Thought, list[Thought]]:
    """The record of a vote: a prompt with a line below it for each text."""
    tree = Thought()
    prompt = tree.child()
    lines = []
    for number, text in enumerate(texts):
        line = prompt.child()
        line.text, line.finish, line.tokens, line.log_prob = text, "stop", 10 + number, -1.0 - number
        lines.append(line)
    return tree, lines


def texts_of(passage):
    return [step["text"] for step in passage["steps"]]


def test_steps_are_lines_and_blank_lines_belong_to_the_one_before():
    assert split_steps("a\nb\n") == ["a", "b"]
    assert split_steps("\n\n a  \n\n\nb") == [" a", "b"]
    assert split_steps("a\r\nb") == ["a", "b"]
    assert split_steps("") == split_steps(" \n \n") == []


def test_equal_beginnings_are_one_passage_and_lines_part_below_it():
    tree, lines = vote("a\nb\nc", "a\nb\nd", "a\nb\nd", "x")
    found = passages(tree, lines[1])
    assert [(p["parent"], texts_of(p), len(p["lines"]), p["won"]) for p in found] == [
        (None, [], 0, True),
        (0, ["a", "b"], 0, True),
        (1, ["c"], 1, False),
        (1, ["d"], 2, True),
        (0, ["x"], 1, False),
    ]
    assert [line["won"] for line in found[3]["lines"]] == [True, False]
    assert [line["log_prob"] for line in found[3]["lines"]] == [-2.0, -3.0]


def test_a_line_that_ends_where_others_go_on_ends_its_passage():
    tree, _ = vote("a\nb", "a\nb\nc")
    assert [(texts_of(p), len(p["lines"])) for p in passages(tree)] == [(["a", "b"], 1), (["c"], 1)]


def test_equal_steps_below_different_ones_stay_apart():
    tree, _ = vote("a\nz", "b\nz")
    assert [texts_of(p) for p in passages(tree)] == [[], ["a", "z"], ["b", "z"]]


def test_a_search_keeps_the_marks_of_its_steps():
    tree = Thought()
    prompt = tree.child()
    step, other = prompt.child(), prompt.child()
    step.text, step.value, step.visits, step.finish = "a\n", 0.25, 7, "stop"
    other.text, other.value, other.finish, other.fate = "b\n", -math.inf, "stop", "pruned"
    last = step.child()
    last.text, last.finish, last.answer, last.log_prob, last.tokens = "answer: 1", "stop", "1", -0.5, 3
    step.log_prob, step.tokens = -0.25, 2
    root, won, pruned = passages(tree, last)
    assert won["steps"] == [{"text": "a", "value": 0.25, "visits": 7}, {"text": "answer: 1"}]
    assert (won["lines"][0]["log_prob"], won["lines"][0]["tokens"]) == (-0.75, 5)
    assert (pruned["lines"][0]["value"], pruned["lines"][0]["fate"]) == ("ruled out", "pruned")
    assert root["steps"] == root["lines"] == []


def test_tokens_are_counted_once_under_the_best_that_came_of_them():
    tree = Thought()
    shared = tree.child().child()
    shared.tokens = 5
    won, agrees, lost, cut = (shared.child() for _ in range(4))
    for thought, tokens, fate in ((won, 1, "chosen"), (agrees, 2, "chosen"), (lost, 4, "outvoted"), (cut, 8, "cut")):
        thought.tokens, thought.fate = tokens, fate
    assert spending(tree, won) == [(WINNER, 6), (AGREEING, 2), ("cut", 8), ("outvoted", 4)]
    assert spending(tree, None) == [(AGREEING, 8), ("cut", 8), ("outvoted", 4)]


@st.composite
def trees(draw):
    """Random trees of thought: texts over few letters, so that equal steps are frequent."""
    tree = Thought()
    thoughts = [tree.child()]
    for _ in range(draw(st.integers(1, 24))):
        parent = thoughts[draw(st.integers(0, len(thoughts) - 1))]
        child = parent.child()
        child.text = draw(st.text("ab\n", max_size=8))
        child.finish = "stop"
        child.tokens = draw(st.integers(0, 5))
        thoughts.append(child)
    ends = [thought for thought in thoughts[1:] if not thought.children]
    return tree, ends[draw(st.integers(0, len(ends) - 1))]


def problems_of(tree: Thought, winner: Thought, found: list[dict]) -> list[str]:
    """How ``found`` misrepresents the tree; empty where it does not."""
    wrong = []
    if any(p["id"] != i or (p["parent"] is None) != (i == 0) for i, p in enumerate(found)):
        wrong.append("ids")
    if any(p["parent"] is not None and p["parent"] >= p["id"] for p in found):
        wrong.append("a child before its parent")
    beginnings = [(p["parent"], p["steps"][0]["text"]) for p in found[1:]]
    if len(set(beginnings)) != len(beginnings):
        wrong.append("siblings that begin alike")
    told = sorted("\n".join(path_of(found, p)) for p in found for _ in p["lines"])
    ends = [t for t in tree.walk() if t.finish is not None and not t.children]
    real = sorted("\n".join(s for part in t.line() for s in split_steps(part.text)) for t in ends)
    if told != real:
        wrong.append("lines with another text")
    won = [p for p in found if any(line["won"] for line in p["lines"])]
    if len(won) != 1 or sum(line["won"] for p in found for line in p["lines"]) != 1:
        wrong.append("not one winner")
    elif path_of(found, won[0]) != [s for part in winner.line() for s in split_steps(part.text)]:
        wrong.append("another winner")
    if [p["id"] for p in found if p["won"]] != sorted(ids_above(found, won[0])) if won else True:
        wrong.append("the path of the winner")
    return wrong


def ids_above(found, passage):
    ids = [passage["id"]]
    while (parent := found[ids[-1]]["parent"]) is not None:
        ids.append(parent)
    return ids


def path_of(found, passage):
    return [step["text"] for i in reversed(ids_above(found, passage)) for step in found[i]["steps"]]


@given(trees())
def test_merging_keeps_every_line_and_shares_every_beginning(drawn):
    tree, winner = drawn
    assert problems_of(tree, winner, passages(tree, winner)) == []


@given(trees())
def test_every_token_is_spent_once(drawn):
    tree, winner = drawn
    assert sum(tokens for _, tokens in spending(tree, winner)) == sum(thought.tokens for thought in tree.walk())


def test_the_check_catches_a_merge_that_loses_or_splits_lines():
    tree, lines = vote("a\nb", "a\nc", "a\nc")
    found = passages(tree, lines[0])
    assert problems_of(tree, lines[0], found) == []
    lost = [{**p, "lines": p["lines"][:1]} for p in found]
    assert "lines with another text" in problems_of(tree, lines[0], lost)
    split = [*found, {**found[2], "id": len(found), "lines": []}]
    assert "siblings that begin alike" in problems_of(tree, lines[0], split)
    assert "another winner" in problems_of(tree, lines[1], found)
