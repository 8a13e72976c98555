"""Lines that are written apart, each on a slice of the budget and on random numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from outthink.core.budget import Budget, Ledger
from outthink.core.rng import mix
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import together
from outthink.reason.waves import affordable


async def lines_apart(lm: LM, n: int, write: Callable[[LM], Coroutine[Any, Any, Branch]]) -> list[Branch]:
    """Up to ``n`` lines that ``write`` writes below roots of their own and closes; fewer once the ledger is exhausted.

    A line that reads what it did not draw (a forced phrase, another model's step) cannot say beforehand what it will
    cost, so each gets a slice that cuts it: what it comes to does not depend on those beside it. The first is written
    alone, by which the others find the prompt in the cache and are as many as the rest can probably finish.
    """
    lines, longest = list[Branch](), 0
    while len(lines) < n and not lm.ledger.exhausted:
        width = min(n - len(lines), affordable(lm.ledger, len(lines), longest))
        parts = [lm.ledger.slice(_share(lm.ledger, width)) for _ in range(width)]
        lines += await together(write(_member(lm, part, len(lines) + i)) for i, part in enumerate(parts))
        longest = max(longest, *(part.bill.tokens for part in parts))
        if not any(part.bill.decoded for part in parts):
            break  # what is left does not even buy the prompt
    return lines


def _share(ledger: Ledger, width: int) -> Budget:
    return Budget() if ledger.tokens_left == math.inf else Budget(tokens=ledger.tokens_left // width)


def _member(lm: LM, part: Ledger, number: int) -> LM:
    """``lm`` on ``part``. The first line is drawn from the seed as it is."""
    member = lm.with_ledger(part)
    return member.with_sampling(replace(lm.sampling, seed=mix(lm.sampling.seed, number))) if number else member
