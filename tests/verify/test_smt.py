"""z3 as a verifier: against the family's own checker and oracle, and against formulas of one's own."""

import math
import threading
from fractions import Fraction

import pytest

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.reason.solve import ask, think
from outthink.tasks.constraints import Constraints
from outthink.tasks.puzzle_text import read_answer, read_puzzle
from outthink.tasks.smt import Smt
from outthink.verify import VERIFIERS
from outthink.verify.oracle import ON_THE_WAY
from outthink.verify.smt import SmtChecker, satisfiable, smt_of
from quick_toy import toy

FAMILY = Constraints()


class Line:
    """What a verifier reads of a branch."""

    def __init__(self, text, ended=True):
        self.full_text, self.ended, self.finish = text, ended, "stop" if ended else "length"


async def score(question, *lines):
    return await SmtChecker().score(question, [Line(text, ended) for text, ended in lines], Ledger())


@pytest.mark.parametrize("kind", ["houses", "guests"])
async def test_answers_of_puzzles_are_judged_as_their_checker_does(kind):
    for seed in range(2):
        problem = FAMILY.build(seed, 0.5, kind=kind)
        question, puzzle = ask(problem, chat=False), read_puzzle(problem.prompt)
        SmtChecker().require(question)
        answers = [
            problem.answer,
            *(FAMILY.build(seed + k, 0.5, kind=kind).answer for k in (1, 2)),
            "nobody",
            "",
            "x, y",
        ]
        words = problem.answer.replace(",", " , ").split()
        answers += [" ".join(words[:-1]), " ".join([words[-1], *words[1:-1], words[0]])]
        got = await score(question, *((f"answer: {answer}\n", True) for answer in answers))
        right = [answer != "" and problem.check(answer) for answer in answers]
        assert [value == 0.0 for value in got] == right
        assert right[0] and not all(right)
        assert all(value in (0.0, -math.inf) for value in got)
        assert read_answer(puzzle, problem.answer) is not None


async def test_steps_that_contradict_the_clues_are_ruled_out_and_no_others():
    """Every step of the solution can be, and of steps that the oracle rejects those that the clues exclude at once."""
    for seed in range(2):
        problem = FAMILY.build(seed, 0.6)
        question = ask(problem, chat=False)
        prefixes = ["\n".join(problem.steps[:k]) + "\n" for k in range(1, len(problem.steps) + 1)]
        assert await score(question, *((prefix, False) for prefix in prefixes)) == [ON_THE_WAY] * len(prefixes)
        word, value = problem.steps[0].split(" ")
        other = {"comes": "stays", "stays": "comes"}.get(value, "1" if value != "1" else "2")
        wrong = [f"{word} {other}\n", "someone 1\n", f"{word} {value}\n{word} {value}\n", "word\n"]
        got = await score(question, *((text, False) for text in wrong))
        assert got == [-math.inf] * 4, "the clues leave one solution, so any other value contradicts them"
        assert not any(problem.extendable(text) for text in wrong)
    assert await score(question, ("no answer", True)) == [-math.inf]


SUM = "(declare-const x Int)(declare-const |y z| Real)(assert (= (+ (* 2 x) |y z|) 7.0))(assert (> x 1))"


def read_sum(answer):
    """ "x=2 y=3/1" as values."""
    try:
        parts = dict(part.split("=") for part in answer.split())
        return {"x": int(parts["x"]), "y z": Fraction(parts["y"])}
    except (ValueError, KeyError):
        return None


async def test_a_formula_of_one_s_own():
    question = Question("a", lambda text: text.removeprefix("answer: ").strip() or None, problem=Smt(SUM, read_sum))
    SmtChecker().require(question)
    answers = ["x=2 y=3", "x=3 y=1/1", "x=4 y=-1", "x=1 y=5", "x=2 y=7/2", "x=two y=3", "x=5 y=-6/2"]
    got = await score(question, *((f"answer: {answer}", True) for answer in answers))
    assert [value == 0.0 for value in got] == [True, True, True, False, False, False, True]
    assert await score(question, ("", False)) == [ON_THE_WAY], "nothing is known of unfinished lines"


def test_what_cannot_be_judged_is_refused_before_anything_is_spent():
    with pytest.raises(CapabilityError, match="no formula comes with it"):
        SmtChecker().require(ask("compute 1 + 2", chat=False))
    with pytest.raises(UserError, match="z3 cannot read the formula"):
        SmtChecker().require(Question("a", str, problem=Smt("(assert (= x", read_sum)))
    with pytest.raises(UserError, match="contradicts itself"):
        SmtChecker().require(Question("a", str, problem=Smt("(assert false)", read_sum)))
    with pytest.raises(UserError, match="timeout_s"):
        SmtChecker(0)
    assert VERIFIERS.get("z3") is SmtChecker


def test_what_z3_cannot_decide_in_time_is_neither_accepted_nor_ruled_out():
    hard = "(declare-const x Int)(declare-const y Int)(declare-const z Int)" + (
        "(assert (and (> x 1) (> y 1) (> z 1) (= (+ (* x x x) (* y y y)) (* z z z))))"
    )
    assert satisfiable(hard, 20) is None


@pytest.mark.parametrize("strategy", ["sample-until-verified", "particle-filter"])
async def test_the_formula_is_looked_at_once_and_beside_the_event_loop(monkeypatch, strategy):
    """z3 takes seconds over some: nobody else waits for it."""
    smt, looked = Smt("(declare-const n Int)(assert (= (* n n) 9))", lambda answer: {"n": answer.count("a")}), []

    def spied(formula, timeout_ms):
        if formula == smt.formula:
            looked.append(threading.current_thread() is threading.main_thread())
        return satisfiable(formula, timeout_ms)

    monkeypatch.setattr("outthink.verify.smt.satisfiable", spied)
    question = Question("a", lambda text: text or None, problem=smt)
    await think(question, toy("ab", 9, seed=1), strategy, "z3", n=4)
    assert looked == [False]


async def test_it_is_what_a_strategy_stops_at():
    """The toy model's lines are answers: as many letters a as the formula wants."""
    smt = Smt("(declare-const n Int)(assert (= (* n n) 9))", lambda answer: {"n": answer.count("a")})
    question = Question("a", lambda text: text or None, problem=smt)
    found = await think(question, toy("ab", 9, seed=1), "sample-until-verified", "z3", n=60, width=4)
    assert found.stopped == "verified"
    assert found.best.count("a") == 3
    assert smt_of(question) is smt
