"""Programs against their tests: scores by what passes, what seems to pass, and strategies that ask for them."""

import asyncio
import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.reason.solve import ask, think
from outthink.verify import VERIFIERS
from outthink.verify.sandbox import Outcome, Sandbox
from outthink.verify.unit_tests import CodeTests, UnitTests, parse_program, unit_tests_of
from quick_toy import toy

TESTS = UnitTests(("assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'aa'"))
QUESTION = Question("Write double.", parse_program, problem=TESTS)
TRUSTED = Sandbox(seconds=20, cpu_seconds=2, memory_bytes=128 << 20, unprotected=True)  # these programs are our own


class Line:
    """What a verifier reads of a branch."""

    finish, ended = "stop", True

    def __init__(self, program, fence="```python"):
        self.full_text = f"Here it is:\n{fence}\n{program}\n```\n" if fence else program


def score(*lines, question=QUESTION, ledger=None):
    return asyncio.run(CodeTests(TRUSTED).score(question, lines, ledger or Ledger()))


def test_scores_are_the_log_of_the_share_that_passes():
    ledger = Ledger()
    lines = [
        Line("def double(x): return 2 * x"),
        Line("def double(x): return x * 2 if isinstance(x, int) else x"),
        Line("def double(x): return None"),
        Line("def double(x: return"),
        Line("nothing at all", fence=""),
    ]
    got = score(*lines, ledger=ledger)
    assert got == pytest.approx([0.0, math.log(2 / 3), -math.inf, -math.inf, -math.inf])
    assert [CodeTests().accepts(value) for value in got] == [True, False, False, False, False]
    assert ledger.bill.verifier_calls == 5


def test_a_program_that_only_seems_to_pass_does_not():
    """It ends the process early, prints something like a result, or breaks its tests' own names."""
    program = "def double(x): return 0\n"
    tricks = ["import os; os._exit(0)", "import sys; sys.exit(0)", "print('0' * 32, 3)", "raise SystemExit",
              "import builtins; builtins.AssertionError = KeyboardInterrupt"]  # fmt: skip
    assert score(*[Line(program + trick) for trick in tricks]) == [-math.inf] * len(tricks)
    assert score(Line("print('chatter' * 10)\ndef double(x): return x * 2")) == [0.0]


def test_examples_in_the_problem_are_its_tests():
    text = "Write double.\n\n>>> double(2)\n4\n>>> double('a')\n'aa'\n"
    question = ask(text, chat=True)
    assert unit_tests_of(question) == UnitTests.in_text(text)
    assert len(unit_tests_of(question).tests) == 2
    assert score(Line("def double(x): return x * 2"), question=question) == [0.0]
    assert score(Line("def double(x): return 4"), question=question) == pytest.approx([math.log(0.5)])
    assert question.parse(Line("x = 1").full_text) == "x = 1"
    for other in ("compute 1 + 2", ">>> import os", "a >>> b"):
        assert UnitTests.in_text(other) is None


def test_the_last_whole_block_is_the_program():
    assert parse_program("```python\na = 1\n```\nno:\n```py\nb = 2\n\n```\n") == "b = 2"
    assert parse_program("```\na\n```\n```python\nunfinished") == "a"
    assert parse_program("a = 1") is None


def test_what_cannot_be_tested_is_refused_before_anything_is_spent(monkeypatch):
    with pytest.raises(CapabilityError, match="has no unit tests"):
        CodeTests(TRUSTED).require(Question("compute 1 + 2", parse_program))

    def cannot(self):
        raise CapabilityError("This machine cannot shut a program in: so.")

    monkeypatch.setattr(Sandbox, "check", cannot)
    with pytest.raises(CapabilityError, match="cannot shut"):
        CodeTests().require(QUESTION)
    assert VERIFIERS.get("code") is CodeTests


async def test_seconds_are_the_ledger_s_and_programs_run_a_few_at_a_time(monkeypatch):
    running, most, times = 0, 0, []

    async def run(self, program):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        times.append(self.seconds)
        await asyncio.sleep(0)
        running -= 1
        return Outcome("", "", 0, "finished")

    monkeypatch.setattr(Sandbox, "run", run)
    judge = CodeTests(Sandbox(seconds=9), width=2)
    lines = [Line("pass") for _ in range(7)]
    await judge.score(QUESTION, lines, Ledger(Budget(seconds=3), clock=lambda: 0.0))
    assert (most, times) == (2, [3.0] * 7)
    await judge.score(QUESTION, lines, Ledger(Budget(seconds=0)))
    assert len(times) == 7, "there was no time left to run anything in"


async def test_a_strategy_stops_at_the_first_program_that_passes(monkeypatch):
    """The toy model's lines as programs, of which those that begin with b are right."""

    async def passed(self, program, tests, seconds):
        return int(program.startswith("b"))

    monkeypatch.setattr(CodeTests, "passed", passed)
    monkeypatch.setattr(Sandbox, "check", lambda self: None)
    question = Question("a", lambda text: text or None, problem=UnitTests(("assert True",)))
    found = await think(question, toy("ab", 8, seed=3), "sample-until-verified", "code", n=40, width=1)
    assert found.stopped == "verified"
    assert found.best.startswith("b")
