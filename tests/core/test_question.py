"""Answers are read where a text marks them, and nowhere else."""

import pytest

from outthink.core.question import Question, parse_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 1 = 2\nanswer: 2", "2"),
        ("answer: 5\nanswer: ", "5"),
        ("answers: 5", None),
        ("Answering the question", None),
        ("answer: \n7", None),
        ("**Answer:** 5", "5"),
        ("final answer: **7**", "7"),
        ("so\n#### 12\n", "12"),
        (r"thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"thus \boxed{1", None),
        ("answer: 1\nno\nanswer: 2", "2"),
        ("the answer: 3", None),
        ("", None),
    ],
)
def test_what_is_read(text, answer):
    assert parse_answer(text) == answer


class Line:
    def __init__(self, text, finish):
        self.full_text, self.finish = text, finish


def test_a_line_that_was_cut_is_read_up_to_its_last_whole_line():
    question = Question("p", parse_answer)
    assert question.answer_of(Line("answer: 12", "stop")) == "12"
    assert question.answer_of(Line("answer: 12", "budget")) is None
    assert question.answer_of(Line("answer: 12\n", "length")) == "12"
