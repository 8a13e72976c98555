"""Sampling whole lines so that a budget buys finished ones."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import Branch

SLACK = 1.25  # a wave is planned as if its lines were this much longer than the longest seen
# And by so much longer still, divided by the number of lines seen: of n + 1 lines the last is the longest with
# probability 1 / (n + 1). Without it most lines are cut where lengths vary, and answers that short lines reach win.
DOUBT = 2.0


async def sample_lines(
    root: Branch, n: int, ledger: Ledger, until: Until, sampling: Sampling | None = None, widest: int | None = None
) -> AsyncIterator[list[Branch]]:
    """Up to ``n`` lines below ``root``, in waves of at most ``widest``; fewer once the ledger is exhausted.

    Launching all at once would cut every one of them short under a small budget. So the first wave is a single line
    where something is limited, and later ones are as wide as the lines so far say the rest of the budget can finish,
    cautiously while they are few. Each line of a wave may take an equal share of the tokens left: what it gets does
    not depend on how the engine interleaves it with other work.
    """
    launched = longest = 0
    while launched < n and not ledger.exhausted:
        width = n - launched if widest is None else min(widest, n - launched)
        if ledger.limited:
            width = min(width, affordable(ledger, launched, longest))
        wave = await root.extend(width, with_share(until, ledger.tokens_left / width), sampling)
        launched += width
        longest = max(longest, *(len(line.tokens) for line in wave))
        yield wave
        if not any(line.tokens for line in wave):
            return  # what is left does not even buy the prompt


def with_share(until: Until, share: float) -> Until:
    """The same with at most ``share`` tokens, and at least one."""
    if share == math.inf or (until.max_tokens is not None and until.max_tokens <= share):
        return until
    return replace(until, max_tokens=max(1, int(share)))


def affordable(
    ledger: Ledger, launched: int, longest: int, tokens_left: float | None = None, doubt: float = DOUBT
) -> int:
    """How many more lines the budget can probably finish, of which it paid for ``launched`` so far; at least one.

    ``tokens_left``: of the ledger's tokens, those that may be drawn, where prompts and verifiers take some. ``doubt``:
    see `DOUBT`; 0 for lines that share what others of them leave.
    """
    if launched == 0:
        return 1
    spent, left = ledger.fraction_spent, ledger.tokens_left if tokens_left is None else tokens_left
    by_share = (1 - spent) / (spent / launched) if spent else math.inf
    slack = SLACK + doubt / launched
    return max(1, int(min(by_share / slack, left / max(1.0, slack * longest), 1 << 30)))
