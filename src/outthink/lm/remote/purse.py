"""Tokens of a budget set aside for requests in flight, so that together they cannot overspend it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from outthink.core.budget import Ledger


class Bank:
    """What is set aside, of every ledger. To be used within one event loop."""

    def __init__(self) -> None:
        self._held: Counter[Ledger] = Counter()
        self._freed = asyncio.Event()

    async def take(self, ledger: Ledger, least: int, wanted: float) -> Deposit:
        """Set aside up to ``wanted`` tokens. Where fewer than ``least`` are free, waits for others to give theirs back;
        where nobody holds any, sets aside what there is.
        """
        if ledger.tokens_left == math.inf:
            return Deposit(self, ledger, math.inf)
        while (free := self._free(ledger)) < least and any(self._held[each] for each in ledger.line):
            self._freed.clear()
            await self._freed.wait()
        deposit = Deposit(self, ledger, int(max(0, min(wanted, free))))
        self._held.update({each: int(deposit.left) for each in ledger.line})
        return deposit

    def release(self, ledger: Ledger, amount: int) -> None:
        """Give back ``amount`` of what was set aside."""
        for each in ledger.line:
            self._held[each] -= amount
            if self._held[each] <= 0:
                del self._held[each]
        self._freed.set()

    @property
    def empty(self) -> bool:
        """Whether nothing is set aside."""
        return not self._held

    def _free(self, ledger: Ledger) -> float:
        return min(each.tokens_left - self._held[each] for each in ledger.line)


class Deposit:
    """Tokens set aside; ``left`` of them neither spent nor given back."""

    def __init__(self, bank: Bank, ledger: Ledger, amount: float) -> None:
        self._bank, self._ledger, self.left = bank, ledger, amount

    def spend(self, amount: int) -> None:
        """``amount`` tokens are on the bill now, and need no longer be set aside."""
        self._give(min(amount, self.left))

    def close(self) -> None:
        """Give back what is left."""
        self._give(self.left)

    def _give(self, amount: float) -> None:
        if self.left != math.inf:
            self.left -= amount
            self._bank.release(self._ledger, int(amount))
