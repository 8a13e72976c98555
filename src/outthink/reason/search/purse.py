"""The tokens of a search, counted so that its course does not depend on how the engine interleaves its work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from outthink.core.budget import Ledger

SLACK = 1.25  # a step is planned as if it were this much longer than the longest seen
HELD = 0.25  # the share of what there is at first that is kept for writing one line to its end
GUESS = 32  # tokens of a step, before any was seen


@dataclass(frozen=True)
class Grant:
    """``num_children`` children of at most ``each`` tokens; ``reserved`` tokens, infinite where nothing limits them,
    are set aside for drawing and judging them.
    """

    num_children: int
    each: float
    reserved: float


class Purse:
    """What the ledger still has, less what is set aside for the work in flight.

    The ledger itself says at any moment how much was drawn so far, which is a matter of timing. So each piece of work
    is granted the most that it may take when it is launched, what judges it included, and what it left over comes back
    when its result is taken.
    Until the first result the prompt is unpaid, and nothing else may be in flight: then it is ``opened``. ``lines``:
    how many lines like the first one the rest could pay, if one was written first. ``dry`` says that too little was
    left when somebody asked last.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._free = ledger.tokens_left
        self._held = HELD * self._free if self._free < math.inf else 0.0
        self._at_first = self._left()
        self.lines = math.inf
        self._longest: float | None = None
        self._judging = 0.0  # tokens of judging for each one drawn, at most so far
        self.opened = self.dry = False

    @property
    def free(self) -> float:
        """Tokens that nothing in flight may take; infinite where nothing limits them."""
        return self._free

    def open(self, length: int, judging: int = 0) -> None:
        """Begin with one line of ``length`` tokens, and with it the prompt, paid, and ``judging`` tokens for judging
        it; nothing may be in flight.
        """
        left, self._judging = self._left(), judging / max(1, length)
        shares = [now / max(before - now, 1e-9) for before, now in zip(self._at_first, left, strict=True)]
        by_tokens = left[0] / max(1, length)
        self.opened, self._free = True, left[0]
        self.lines = max(0.0, min(by_tokens, *shares[1:]) / SLACK)

    def has_room(self, hold: bool) -> bool:
        """Whether something can be taken. ``hold``: enough must be left to write a line to its end."""
        self.dry = self._ledger.exhausted or self._spendable(hold) < 1 or (hold and self._nearly_spent())
        return not self.dry

    def take(self, num_children: int, most: float, sharing: int, hold: bool) -> Grant:
        """Set tokens aside for up to ``num_children`` children of at most ``most`` tokens; ask `has_room` first.

        What is free is meant for ``sharing`` such requests. Fewer children are granted where else none of them could
        probably finish its step.
        """
        free = self._spendable(hold)
        if free == math.inf:
            return Grant(num_children, most, math.inf)
        token = 1.0 + self._judging  # what one costs that is drawn and judged
        need = max(1.0, token * min(most, GUESS if self._longest is None else SLACK * self._longest))
        num_children = max(1, min(num_children, int(free // need)))
        whole = min(token * most, free // num_children, max(need, free // (num_children * max(1, sharing))))
        reserved = num_children * max(1.0, float(int(whole)))
        self._free -= reserved
        return Grant(num_children, max(1.0, float(int(reserved / num_children / token))), reserved)

    def pay(self, tokens: int) -> None:
        """Set ``tokens`` aside that work about to be launched takes beside its grant."""
        self._free -= tokens

    def settle(self, grant: Grant, drawn: int, judging: int, longest: int, alone: bool) -> None:
        """Take back what a grant did not spend on the tokens ``drawn`` and on ``judging`` them. ``longest``: the most
        tokens of one child.

        Where nothing else is in flight, it is ``alone``, the ledger itself says what is left.
        """
        self._longest = max(self._longest or 0.0, longest)
        if drawn and self.opened:  # the first result paid for the verifier's prompt, too
            self._judging = max(self._judging, judging / drawn)
        if not self.opened or alone:
            self.opened, self._free = True, self._ledger.tokens_left
        elif self._free < math.inf:
            self._free += grant.reserved - drawn - judging

    def shut(self) -> None:
        """Have nothing more: what is left does not buy a single token."""
        self._free = 0.0

    def _spendable(self, hold: bool) -> float:
        return self._free - (self._held if hold else 0.0)

    def _nearly_spent(self) -> bool:
        pairs = zip(self._at_first[1:], self._left()[1:], strict=True)
        return any(before < math.inf and now < HELD * before for before, now in pairs)

    def _left(self) -> tuple[float, float, float]:
        return self._ledger.tokens_left, self._ledger.flops_left, self._ledger.seconds_left
