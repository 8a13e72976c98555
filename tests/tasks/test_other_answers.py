"""A right answer after sound steps is a right solution, however it is written."""

import pytest

from outthink.tasks.families import get_family
from outthink.tasks.suites import draw_problems

CONSTRAINTS = "guests ann fay bob.\nbob stays. fay comes. ann comes.\nwho comes?"


def test_guests_in_another_order():
    problem = get_family("constraints").read(CONSTRAINTS)
    steps = "bob stays\nfay comes\nann comes\n"
    for end in ("", "\n"):
        assert problem.extendable(steps + "answer: fay ann" + end)
        assert not problem.extendable(steps + "answer: fay bob" + end)
    assert not problem.extendable("answer: fay ann\n")  # no step says why
    assert not problem.extendable(steps.replace("fay comes", "fay stays") + "answer: fay ann\n")


@pytest.mark.parametrize("seed", range(20))
def test_countdown_with_other_brackets_and_spaces(seed):
    [problem] = draw_problems("countdown", 0.4, "train", 1, seed)
    steps = "".join(step + "\n" for step in problem.steps)
    for answer in (f"({problem.answer})", problem.answer.replace(" ", ""), f"  {problem.answer} "):
        assert problem.check(answer)
        assert problem.extendable(f"{steps}answer: {answer}\n")
    assert not problem.extendable(f"{steps}answer: {problem.answer} + 1\n")
    assert not problem.extendable(f"{steps}answer: ({problem.answer})\nmore\n")


@pytest.mark.parametrize("text", ["compute 2 + 3 mod 5", "compute (1 + 2) * (3 + 4) mod 5", "2 * 3 mod 4"])
def test_a_residue_that_may_mean_either_is_not_read(text):
    assert get_family("arithmetic").read(text) is None


def test_a_residue_of_all_is_read():
    assert get_family("arithmetic").read("compute ((1 + 2) * (3 + 4)) mod 5").answer == "1"
    assert get_family("arithmetic").read("compute 17 mod 5").answer == "2"


@pytest.mark.parametrize(
    "text",
    [
        "ann sold 5 pens. how many pens does ann have?",
        "ann has 5 pens. bob has 5 more than ann. how many hats does bob have?",
    ],
)
def test_a_story_about_other_things_than_are_asked_for_is_not_read(text):
    assert get_family("calculator").read(text) is None


def test_a_story_is_read_whoever_tells_it():
    for seed in range(20):
        [problem] = draw_problems("calculator", 0.5, "train", 1, seed)
        for told in (problem, problem.rerender(seed)):
            assert get_family("calculator").read(told.prompt).answer == problem.answer
