"""Where steps end, and when a line is whole."""

import math

import pytest

from outthink.core.errors import SamplingError
from outthink.core.question import Question, parse_answer
from outthink.core.sampling import Until
from outthink.reason.segment import Segmenter


class Line:
    def __init__(self, text, finish="stop", tokens=3, ended=False):
        self.full_text, self.finish, self.tokens, self.ended = text, finish, [0] * tokens, ended


QUESTION = Question("p", parse_answer)


@pytest.mark.parametrize(
    ("name", "until"),
    [
        ("newline", Until(None, ("\n",))),
        ("paragraph", Until(None, ("\n\n",))),
        ("sentence", Until(None, (". ", "! ", "? ", "\n"))),
        ("tokens:32", Until(32)),
        ("tag:</step>", Until(None, ("</step>",))),
    ],
)
def test_names_say_where_steps_end(name, until):
    assert Segmenter.of(name).until() == until
    assert Segmenter.of(name).until(math.inf) == until
    assert Segmenter.of(name).until(5).max_tokens == 5
    assert Segmenter.of(Segmenter.of(name)) == Segmenter.of(name)


def test_a_segmenter_of_one_s_own_may_use_token_ids():
    own = Segmenter(stop_tokens=(13,), max_tokens=8)
    assert own.until(99) == Until(8, (), (13,))


@pytest.mark.parametrize("name", ["", "word", "tokens:", "tokens:x", "tokens:0", "tag:", "newlines"])
def test_unknown_names_are_refused(name):
    with pytest.raises(SamplingError):
        Segmenter.of(name)


def test_steps_must_end_somewhere():
    with pytest.raises(SamplingError, match="end somewhere"):
        Segmenter()


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        (Line("1 + 1 = 2\n"), False),
        (Line("1 + 1 = 2\nanswer: 2\n"), True),
        (Line("answer: 2", ended=True), True),
        (Line("I give up", ended=True), True),
        (Line("answer: 2"), False),  # a sentence may end within the answer's line: "answer: Mr. " goes on
        (Line("answer: 2", finish="length", tokens=9), False),
        (Line("1 + 1", finish="length", tokens=4), True),  # cut before its limit: the context is full
        (Line("1 + 1", finish="budget"), False),
        (Line("answer: 2\nmore", finish="budget"), True),
    ],
)
def test_a_line_is_whole_once_nothing_can_follow(line, whole):
    assert Segmenter.of("sentence").is_whole(QUESTION, line, Until(9, (". ",))) is whole
