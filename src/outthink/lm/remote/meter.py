"""What one request costs: as the server reports it, or counted and guessed here, and marked as such."""

from __future__ import annotations

from outthink.core.budget import Ledger
from outthink.lm.remote.prefix import Prefix
from outthink.lm.remote.purse import Deposit
from outthink.lm.remote.wire import Usage


class Meter:
    """Charges a ledger while a response is read.

    Positions of the prompt that the server did not find in its cache are ``prefilled``: where it has none, a prefix
    that is sent again is computed again, and billed again. Drawn tokens are charged as they come, and made up to the
    server's own figure at the end. ``flops``: of one position.
    """

    def __init__(self, ledger: Ledger, prefix: Prefix, deposit: Deposit | None, flops: int) -> None:
        self._ledger, self._prefix, self._deposit, self._flops = ledger, prefix, deposit, flops
        self.usage: Usage | None = None
        self._drawn = 0

    def report(self, usage: Usage | None) -> None:
        """Take in what the server says so far; the prompt is charged when this is first known."""
        if usage is None:
            return
        if self.usage is None:
            computed = usage.prompt - (usage.cached or 0)
            self._prefix.computed += computed
            self._prefix.count = usage.prompt
            self._charge(prefilled=computed)
        self.usage = usage

    def draw(self, count: int) -> None:
        """``count`` tokens came."""
        self._drawn += count
        self._charge(decoded=count)

    def close(self) -> None:
        """Charge what is still missing. Not to be called where the server never began."""
        if self.usage is not None:
            self._charge(decoded=max(0, self.usage.completion - self._drawn))
        else:
            guess = self._prefix.guess
            self._prefix.computed += guess
            self._charge(prefilled=guess)
            self._ledger.charge(estimated=guess + self._drawn)

    def _charge(self, *, prefilled: int = 0, decoded: int = 0) -> None:
        positions = prefilled + decoded
        if positions:
            self._ledger.charge(prefilled=prefilled, decoded=decoded, flops=positions * self._flops)
            if self._deposit is not None:
                self._deposit.spend(positions)
