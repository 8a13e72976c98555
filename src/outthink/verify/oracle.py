"""The task's own exact step oracle as a verifier: the upper limit of every search over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question
from outthink.lm.protocol import Branch

ON_THE_WAY = -1e-9  # a hair below 0: among lines that are still right, a finished one comes first


class StepOracle:
    """Whether a line can still become a right solution: 0 for a right one that is finished, a hair less for one that
    is on the way, -inf for any other.

    It knows the truth: it measures how far searching could get with a perfect verifier, and is of no use beyond that.
    """

    name = "step-oracle"
    sound = True
    partial = True

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        if not callable(getattr(question.problem, "extendable", None)):
            raise CapabilityError(
                "The step oracle cannot judge this problem: no task family recognises it. Use the verifier "
                "'likelihood', or state the problem as one of `outthink tasks` does."
            )

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        self.require(question)
        ledger.charge(verifier_calls=len(branches))
        return [_score(question, branch) for branch in branches]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score == 0.0


def _score(question: Question, branch: Branch) -> float:
    text = branch.full_text
    if branch.ended and not text.endswith("\n"):
        text += "\n"  # its last line is finished: "answer: 5" does not stand for the beginning of "answer: 52"
    solution = _solution(question, text)
    if not question.problem.extendable(text if solution is None else solution):
        return -math.inf
    if solution is not None:
        return 0.0
    return -math.inf if branch.ended else ON_THE_WAY


def _solution(question: Question, text: str) -> str | None:
    """``text`` up to the end of the line that gives the answer, for a step may go on beyond it; None without one."""
    end = text.find("\n") + 1
    while end:
        if question.parse(text[:end]) is not None:
            return text[:end]
        end = text.find("\n", end) + 1
    return None
