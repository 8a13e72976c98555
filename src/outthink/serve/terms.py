"""On what terms a request is worked on: how urgent it is, and when it must have ended."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, Field

from outthink.core.budget import MAX_PRIORITY, Budget
from outthink.serve.failures import ApiError


class OnTerms(BaseModel):
    """What a request may say of its terms.

    ``priority``: lower goes first, as in vLLM; each one less has twice the share of the machine beside others.
    ``timeout``: the seconds after which what there is is the answer, and 504 where it has not begun.
    """

    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    timeout: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = None


@dataclass(frozen=True)
class Terms:
    """``priority`` as `outthink.core.budget.Ledger` has it; ``until``: when it must end, on the monotonic clock."""

    priority: int = 0
    until: float = math.inf

    @staticmethod
    def agree(asked: OnTerms, api_keys: Sequence[str], waited: float = 0.0) -> None:
        """Have what is done in this context, and the tasks made in it, be done on the terms of a request that was made
        ``waited`` seconds ago.

        Raises ApiError 400 for a priority before that of others where there are others.
        """
        if asked.priority < 0 and len(api_keys) > 1:
            raise ApiError(
                400,
                f"priority={asked.priority}: this server has several clients, of which none may go before the others. "
                "Leave it at 0, or give what can wait a higher number.",
                param="priority",
            )
        _NOW.set(
            Terms(asked.priority, math.inf if asked.timeout is None else time.monotonic() + asked.timeout - waited)
        )

    @staticmethod
    def here() -> Terms:
        """The terms on which this context works."""
        return _NOW.get() or Terms()

    def begin(self) -> None:
        """Note that work begins. Raises TimeoutError where it must have ended by now."""
        if self.until <= time.monotonic():
            raise TimeoutError

    def within(self, deadline: float) -> Terms:
        """These terms, to end in ``deadline`` seconds at the latest."""
        return replace(self, until=min(self.until, time.monotonic() + deadline))

    def limit(self, budget: Budget) -> Budget:
        """``budget`` with no more seconds than are left."""
        if self.until == math.inf:
            return budget
        left = max(0.0, self.until - time.monotonic())
        seconds = left if budget.seconds is None else min(left, budget.seconds)
        return Budget(tokens=budget.tokens, seconds=seconds, flops=budget.flops)


_NOW: ContextVar[Terms | None] = ContextVar("terms", default=None)
