"""An SMT solver as a verifier: answers against the formula of the problem, unfinished lines against it too."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.core.together import together
from outthink.lm.protocol import Branch
from outthink.tasks.problem import Problem, family
from outthink.tasks.smt import Smt
from outthink.verify.oracle import ON_THE_WAY


class SmtChecker:
    """0 for a line whose answer satisfies the formula of its problem, -inf for one that it contradicts.

    A line that is on the way, or that z3 does not decide within ``timeout_s`` seconds, weighs a hair less than 0; one
    on the way is ruled out where what it has stated cannot be. The formula is that of ``Question.problem``, an `Smt` or
    a problem of a family that has one (``constraints``). What it accepts is right as far as the formula is.
    """

    name = "z3"
    sound = True
    partial = True

    def __init__(self, timeout_s: float = 2.0) -> None:
        if not timeout_s > 0:
            raise UserError(f"timeout_s={timeout_s!r} must be above 0.")
        self._timeout_ms = max(1, int(1000 * timeout_s))
        self._sound = set[str]()  # formulas that were looked at: whoever asks again does not wait for z3

    def require(self, question: Question) -> None:
        """See `Verifier.require`. Raises UserError for a formula that z3 cannot read, or that nothing satisfies.

        Takes up to ``timeout_s`` seconds, for each formula once.
        """
        if (smt := smt_of(question)) is None:
            raise CapabilityError(
                "The z3 verifier cannot check this problem: no formula comes with it. Attach one, as "
                "Question(..., problem=Smt(...)), or state the problem as `outthink tasks show constraints` does."
            )
        if smt.formula in self._sound:
            return
        if satisfiable(smt.formula, self._timeout_ms) is False:
            raise UserError("The formula of this problem contradicts itself: no answer could satisfy it.")
        self._sound.add(smt.formula)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        smt = smt_of(question)
        assert smt is not None, "asked before `require`"
        ledger.charge(verifier_calls=len(branches))
        return await together(self._score(question, smt, branch) for branch in branches)

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score == 0.0

    async def _score(self, question: Question, smt: Smt, branch: Branch) -> float:
        answer = question.answer_of(branch)
        if answer is not None:
            values = smt.values(answer)
            done = 0.0
        else:
            if branch.ended:
                return -math.inf
            values = {} if smt.stated is None else smt.stated(branch.full_text)
            done = ON_THE_WAY
        if values is None:
            return -math.inf
        if not values and answer is None:
            return done
        can_be = await asyncio.to_thread(satisfiable, smt.with_values(values), self._timeout_ms)
        return ON_THE_WAY if can_be is None else done if can_be else -math.inf


def smt_of(question: Question) -> Smt | None:
    """The formula that comes with a question, if any does."""
    problem = question.problem
    if isinstance(problem, Problem):
        make = getattr(family(problem.family), "smt", None)
        return None if make is None else make(problem)
    return problem if isinstance(problem, Smt) else None


def satisfiable(formula: str, timeout_ms: int) -> bool | None:
    """Whether something satisfies ``formula``, SMT-LIB 2 text; None where z3 cannot tell in time.

    Raises UserError for text that z3 cannot read. May run on any thread: each call has a context of its own.
    """
    import z3

    solver = z3.Solver(ctx=z3.Context())
    solver.set("timeout", timeout_ms)
    try:
        solver.from_string(formula)
    except z3.Z3Exception as error:
        raise UserError(f"z3 cannot read the formula: {_message(error)}") from error
    result = solver.check()
    return None if result == z3.unknown else result == z3.sat


def _message(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
