"""Whole lines, several in flight, taken back in the order of their random keys; what is not wanted is cancelled.

A strategy that stops early must not look at whichever lines happen to be over first: short ones would be, and their
answers would win. So line k is seen only after lines 0 to k - 1, and what is decided depends on the lines alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import Branch
from outthink.reason.waves import SLACK, affordable, with_share

Grow = Callable[[float], Coroutine[Any, Any, Branch]]
"""Grows the next line to its end, or to that many tokens. Its first act must be to extend a branch."""


def whole_line(root: Branch, until: Until, sampling: Sampling | None = None) -> Grow:
    """Lines below ``root``, each in one piece."""

    async def grow(share: float) -> Branch:
        [line] = await root.extend(1, with_share(until, share), sampling)
        return line

    return grow


async def lines_in_order(grow: Grow, n: int, width: int, ledger: Ledger) -> AsyncGenerator[Branch, None]:
    """Up to ``n`` lines, ``width`` in flight; fewer once the ledger is exhausted. The caller closes what it is given.

    Use it in ``contextlib.aclosing``: leaving that cancels what is in flight and waits until it is gone. Where
    something is limited, the first line flies alone, and then as many as what is left can probably finish; each has
    tokens of its own, which it hands back as it is taken, so that what it gets does not depend on who was faster.
    """
    flying: deque[tuple[asyncio.Task[Branch], float]] = deque()
    launched = longest = 0
    free = ledger.tokens_left
    try:
        while True:
            running = sum(not task.done() for task, _ in flying)
            ahead = 2 * width if not ledger.limited else width  # without a budget, none waits for the oldest
            while launched < n and running < width and len(flying) < ahead and not ledger.exhausted:
                share = _share(ledger, launched, longest, free, width - len(flying), bool(flying))
                if share < 1:
                    break
                flying.append((asyncio.ensure_future(grow(share)), share))
                launched, running = launched + 1, running + 1
                free -= share if share < math.inf else 0.0
            if not flying:
                return
            oldest, share = flying[0]
            while not oldest.done():
                await asyncio.wait([t for t, _ in flying if not t.done()], return_when=asyncio.FIRST_COMPLETED)
                if not ledger.limited:
                    break
            if not oldest.done():
                continue
            flying.popleft()
            line = oldest.result()
            length = _length(line)
            longest = max(longest, length)
            free = ledger.tokens_left if not flying else free + share - length
            yield line
            if not length:
                return  # what is left does not even buy the prompt
    finally:
        tasks = [task for task, _ in flying]
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result().close()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _share(ledger: Ledger, launched: int, longest: int, free: float, slots: int, beside: bool) -> float:
    """How many tokens the next line may draw; 0 if it had better wait for those in flight."""
    if not ledger.limited:
        return math.inf
    if not launched:
        return free
    if not longest or (beside and free < SLACK * longest):
        return 0
    return free // min(slots, affordable(ledger, launched, longest, free)) if free < math.inf else math.inf


def _length(line: Branch) -> int:
    length, at = 0, line
    while at.parent is not None:
        length, at = length + len(at.tokens), at.parent
    return length
