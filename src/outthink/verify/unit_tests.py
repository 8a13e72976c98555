"""Programs checked by running them against unit tests, in a sandbox."""

from __future__ import annotations

import asyncio
import doctest
import json
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.core.together import together
from outthink.lm.protocol import Branch
from outthink.verify.sandbox import Sandbox

MAX_TEXT = 20_000
_BLOCK = re.compile(r"^```[ \t]*(?:python|py)?[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class UnitTests:
    """``tests`` are statements, each of which raises nothing after a right program, in its names; ``setup`` runs first.

    Attach them to a question as ``Question(..., problem=UnitTests(...))``.
    """

    tests: tuple[str, ...]
    setup: str = ""

    @classmethod
    def in_text(cls, text: str) -> UnitTests | None:
        """The examples in ``text``, as a Python session has them (``>>> f(2)`` and below it what that gives).

        None above `MAX_TEXT` characters: a megabyte of what looks like a session takes seconds to read.
        """
        if len(text) > MAX_TEXT:
            return None
        try:
            examples = doctest.DocTestParser().get_examples(text)
        except ValueError:  # prompts that are no session
            return None
        tests = [
            f"_got = {each.source.strip()}\nassert repr(_got) == {each.want.strip()!r}, repr(_got)"
            if each.want else each.source
            for each in examples
        ]  # fmt: skip
        return cls(tuple(tests)) if any(each.want for each in examples) else None


def parse_program(text: str) -> str | None:
    """The last whole block of code in ``text``, between lines of three backticks; None without one."""
    blocks = _BLOCK.findall(text)
    return (blocks[-1].strip("\n") or None) if blocks else None


class CodeTests:
    """0 for a line whose program passes every test of its question, the log of the share that it passes for others,
    -inf where that is none or there is no program.

    The tests are those of ``Question.problem``, or examples in the prompt. Programs run ``width`` at a time, each in a
    process of its own. A program that sets out to can make its tests pass, since they run where it does: what is
    accepted is not thereby right.
    """

    name = "code"
    sound = False
    partial = False

    def __init__(self, sandbox: Sandbox | None = None, width: int = 2) -> None:
        self.sandbox, self._width = sandbox or Sandbox(), width

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        if unit_tests_of(question) is None:
            raise CapabilityError(
                "The code verifier has nothing to run: the question has no unit tests. Attach some, as "
                "Question(..., problem=UnitTests(...)), or put examples into the problem, such as '>>> double(2)' and "
                "'4' on the line below."
            )
        self.sandbox.check()

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        tests = unit_tests_of(question)
        assert tests is not None, "asked before `require`"
        ledger.charge(verifier_calls=len(branches))
        slots = asyncio.Semaphore(self._width)
        return await together(self._score(question, tests, b, ledger, slots) for b in branches)

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score == 0.0

    async def _score(
        self, question: Question, tests: UnitTests, branch: Branch, ledger: Ledger, slots: asyncio.Semaphore
    ) -> float:
        program = parse_program(branch.full_text) or question.answer_of(branch)
        if program is None:
            return -math.inf
        async with slots:
            passed = await self.passed(program, tests, ledger.seconds_left)
        return math.log(passed / len(tests.tests)) if passed else -math.inf

    async def passed(self, program: str, tests: UnitTests, seconds: float = math.inf) -> int:
        """How many of ``tests`` a program passes in at most so many seconds."""
        if (time := min(seconds, self.sandbox.seconds)) <= 0:
            return 0
        mark = secrets.token_hex(16)  # by which a program that ends the process early does not seem to have passed
        spec = {"first": tests.setup, "program": program, "tests": tests.tests, "mark": mark}
        outcome = await replace(self.sandbox, seconds=time).run(_HARNESS.format(spec=json.dumps(json.dumps(spec))))
        last = outcome.stdout.rstrip("\n").rpartition("\n")[2].split(" ")
        return int(last[1]) if last[0] == mark and outcome.exit_code == 0 else 0


_HARNESS = """\
import json as _json, sys as _sys, io as _io
def _run(spec):
    out, _sys.stdout, names, passed = _sys.stdout, _io.StringIO(), {{"__name__": "__main__"}}, 0
    try:
        exec(compile(spec["first"], "setup", "exec"), names)
        exec(compile(spec["program"], "program", "exec"), names)
        ran = True
    except BaseException:
        ran = False
    for test in spec["tests"] if ran else ():
        try:
            exec(compile(test, "test", "exec"), names)
            passed += 1
        except BaseException:
            pass
    print("\\n" + spec["mark"], passed, file=out, flush=True)
_run(_json.loads({spec}))
"""


def unit_tests_of(question: Question) -> UnitTests | None:
    """The tests that come with a question: attached to it, or as examples in its prompt."""
    if isinstance(question.problem, UnitTests):
        return question.problem
    prompt = question.prompt
    if isinstance(prompt, str):
        return UnitTests.in_text(prompt)
    said = [str(part["content"]) for part in prompt if not isinstance(part, int) and part.get("role") == "user"]
    return UnitTests.in_text(said[-1]) if said else None
