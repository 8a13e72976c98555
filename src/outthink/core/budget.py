"""Budgets, bills and the ledger that holds one against the other."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol
from weakref import WeakSet

from outthink.core.errors import BudgetError
from outthink.core.turns import Turns

MAX_PRIORITY = 16
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_UNITS = {
    "tokens": {"tokens": 1.0, "token": 1.0, "tok": 1.0, "": 1.0},
    "seconds": {"seconds": 1.0, "second": 1.0, "sec": 1.0, "s": 1.0, "ms": 1e-3, "minutes": 60.0, "minute": 60.0,
                "min": 60.0, "hours": 3600.0, "hour": 3600.0, "h": 3600.0},
    "flops": {"flops": 1.0, "flop": 1.0},
}  # fmt: skip
_NAMES = "|".join(name for names in _UNITS.values() for name in names)  # so that "tokens" is no trillion "okens"
_NUMBER = re.compile(rf"^([0-9]*\.?[0-9]+\.?(?:e[+-]?[0-9]+)?)\s*(?:({_NAMES})|([kmgtp])\s*({_NAMES}))$")
_GROUPED = "\0"  # stands for a comma that seems to group digits
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


@dataclass(frozen=True)
class Budget:
    """What may be spent; None means unlimited.

    ``tokens`` counts the positions of the tree, each once: of the prompt, computed or found in a cache, and sampled
    tokens. ``Budget("4k tokens")``, ``Budget("8k, 2.5 s")`` and ``Budget(tokens=4000)`` all work. A comma before three
    digits groups the digits of tokens ("100,250 tokens"); before another unit it could as well part two limits
    ("100,250 s"), and is a BudgetError.
    """

    tokens: float | None = None
    seconds: float | None = None
    flops: float | None = None

    def __init__(
        self,
        text: str | float | None = None,
        *,
        tokens: float | None = None,
        seconds: float | None = None,
        flops: float | None = None,
    ) -> None:
        limits: dict[str, float | None] = {"tokens": tokens, "seconds": seconds, "flops": flops}
        if text is not None:
            for unit, amount in _parse(str(text)).items():
                if limits[unit] is not None:
                    raise BudgetError(f"Budget {text!r} sets {unit} twice.")
                limits[unit] = amount
        for unit, amount in limits.items():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if amount is not None and not (number and amount >= 0 and math.isfinite(amount)):
                raise BudgetError(f"Budget {unit}={amount!r} must be a finite number of at least 0.")
            object.__setattr__(self, unit, amount)

    def __str__(self) -> str:
        forms = {"tokens": ",.10g"}  # digits are grouped where `Budget` can read them again
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = [f"{limit:{forms.get(unit, '.10g')}} {unit}" for unit, limit in limits.items() if limit is not None]
        return ", ".join(parts) or "unlimited"


def _parse(text: str) -> dict[str, float]:
    limits: dict[str, float] = {}
    plain = text.lower().replace("_", "").replace(_GROUPED, "?")
    for part in _THOUSANDS.sub(_GROUPED, plain).split(","):
        match = _NUMBER.match(part.replace(_GROUPED, "").strip())
        scale, name = ("", "") if match is None else (match[3] or "", match[2] if match[3] is None else match[4])
        unit = next((u for u, names in _UNITS.items() if match and name in names), None)
        # A bare "1m" could be a million tokens or a minute.
        if match is None or unit is None or (scale and unit == "seconds") or (scale == "m" and not name):
            raise BudgetError(
                f"Cannot read budget {text!r}. Write an amount and a unit, such as '4k tokens', '1M tokens', '2.5 s', "
                "'5 min', '1e12 flops' or several with commas between."
            )
        if _GROUPED in part and unit != "tokens":
            whole, (first, _, rest) = part.replace(_GROUPED, "").strip(), part.strip().partition(_GROUPED)
            raise BudgetError(
                f"Budget {text!r} is ambiguous. Write {whole!r} for one limit, or '{first} tokens, "
                f"{rest.replace(_GROUPED, '')}' for two."
            )
        if unit in limits:
            raise BudgetError(f"Budget {text!r} sets {unit} twice.")
        limits[unit] = float(match[1]) * _SCALE[scale] * _UNITS[unit][name]
    return limits


@dataclass(frozen=True)
class Bill:
    """What was spent. Each position of a tree is counted once, however often the engine had to recompute it.

    ``prefilled``: prompt positions computed; ``cached``: prompt positions found in the cache; ``decoded``: tokens
    sampled; ``flops``: of those positions, multiply-add = 2; ``seconds``: wall time. ``verifier_tokens`` and
    ``verifier_flops``: how much of the tokens and FLOPs went into judging lines rather than writing them.
    ``estimated``: how many of the tokens were counted or guessed by us because a server did not report them.
    """

    prefilled: int = 0
    cached: int = 0
    decoded: int = 0
    flops: int = 0
    seconds: float = 0.0
    verifier_calls: int = 0
    tool_calls: int = 0
    verifier_tokens: int = 0
    verifier_flops: int = 0
    estimated: int = 0

    @property
    def tokens(self) -> int:
        """Positions of the tree: what a token budget limits. Those found in a cache count, so that what a budget buys
        does not depend on what others asked before.
        """
        return self.prefilled + self.cached + self.decoded

    def to_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, **asdict(self)}

    def __str__(self) -> str:
        calls = f", {self.verifier_calls} verifier calls" if self.verifier_calls else ""
        if self.verifier_tokens:
            calls += f" ({self.verifier_tokens:,} of the tokens, {self.verifier_flops:.3g} of the FLOPs)"
        calls += f", {self.estimated:,} of the tokens estimated" if self.estimated else ""
        return (
            f"{self.tokens:,} tokens ({self.prefilled:,} prefilled, {self.cached:,} cached, {self.decoded:,} decoded), "
            f"{self.flops:.3g} FLOPs, {self.seconds:.2f} s{calls}"
        )


class Settable(Protocol):
    """What can be told that something has changed, such as a ``threading.Event``."""

    def set(self) -> object: ...


class Ledger:
    """The budget and the bill of one piece of work; safe to charge from any thread.

    The engine charges it and asks it before every step, so that work in flight is cut when it runs out. A ledger made
    by `slice` also charges its parent and is exhausted when its parent is. ``priority``: a whole number from -16 to 16;
    of the pieces of work that share an engine each one less has twice the share of every step, and keeps its pages
    before those of higher number. Raises BudgetError for another.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        parent: Ledger | None = None,
        verifying: bool = False,
        priority: int = 0,
    ) -> None:
        if not isinstance(priority, int) or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            raise BudgetError(f"priority={priority!r} must be a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}.")
        self.budget, self.priority = budget or Budget(), priority
        self._clock, self._parent, self._verifying = clock, parent, verifying
        self._started = clock()
        self._bill = Bill()
        self._lock = threading.Lock()
        self._cancelled = False
        self._watchers: WeakSet[Settable] = WeakSet()
        self._turns: Turns | None = None

    def take_turns(self) -> None:
        """Have engines on different threads spend this budget one at a time.

        An engine asks what is left, computes, and then charges: two that ask at once would spend the same tokens.
        """
        whole = self.line[-1]
        whole._turns = whole._turns or Turns()

    @property
    def turns(self) -> Turns | None:
        """The turns in which engines spend the whole that this is a part of; None where there is no need of any."""
        return self._turns if self._parent is None else self._parent.turns

    def charge(
        self,
        *,
        prefilled: int = 0,
        cached: int = 0,
        decoded: int = 0,
        flops: int = 0,
        verifier_calls: int = 0,
        tool_calls: int = 0,
        verifier_tokens: int = 0,
        verifier_flops: int = 0,
        estimated: int = 0,
    ) -> None:
        """Add to the bill, here and in every parent."""
        if self._verifying:
            verifier_tokens, verifier_flops = prefilled + cached + decoded, flops
        with self._lock:
            bill = self._bill
            self._bill = replace(
                bill,
                prefilled=bill.prefilled + prefilled,
                cached=bill.cached + cached,
                decoded=bill.decoded + decoded,
                flops=bill.flops + flops,
                verifier_calls=bill.verifier_calls + verifier_calls,
                tool_calls=bill.tool_calls + tool_calls,
                verifier_tokens=bill.verifier_tokens + verifier_tokens,
                verifier_flops=bill.verifier_flops + verifier_flops,
                estimated=bill.estimated + estimated,
            )
            for watcher in self._watchers:
                watcher.set()
        if self._parent is not None:
            self._parent.charge(
                prefilled=prefilled,
                cached=cached,
                decoded=decoded,
                flops=flops,
                verifier_calls=verifier_calls,
                tool_calls=tool_calls,
                verifier_tokens=verifier_tokens,
                verifier_flops=verifier_flops,
                estimated=estimated,
            )

    def cancel(self) -> None:
        """Declare the budget spent: work in flight is cut at the next step and strategies return what they have."""
        with self._lock:
            self._cancelled = True
            for watcher in self._watchers:
                watcher.set()

    def watch(self, watcher: Settable) -> None:
        """Have ``watcher.set()`` called whenever this ledger, or one that it is a slice of, is charged or cancelled.

        From whatever thread does so. It is forgotten when nobody else holds it.
        """
        for ledger in self.line:
            with ledger._lock:
                ledger._watchers.add(watcher)

    @property
    def bill(self) -> Bill:
        """What has been spent so far, seconds included."""
        return replace(self._bill, seconds=self._clock() - self._started)

    @property
    def tokens_left(self) -> float:
        """Positions that the tree may still grow by; infinite where nothing limits them."""
        own = math.inf if self.budget.tokens is None else math.floor(self.budget.tokens) - self._bill.tokens
        return max(0.0, own if self._parent is None else min(own, self._parent.tokens_left))

    @property
    def flops_left(self) -> float:
        own = math.inf if self.budget.flops is None else self.budget.flops - self._bill.flops
        return max(0.0, own if self._parent is None else min(own, self._parent.flops_left))

    @property
    def seconds_left(self) -> float:
        spent = self._clock() - self._started
        own = math.inf if self.budget.seconds is None else self.budget.seconds - spent
        return max(0.0, own if self._parent is None else min(own, self._parent.seconds_left))

    @property
    def exhausted(self) -> bool:
        """Whether nothing more may be spent: a limit is reached, or the work was cancelled."""
        return self.cancelled or min(self.tokens_left, self.flops_left, self.seconds_left) <= 0

    @property
    def cancelled(self) -> bool:
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    @property
    def fraction_spent(self) -> float:
        """The share of the tightest limit, here or in a parent, that is used up, in [0, 1]; 0 without limits."""
        budget, bill = self.budget, self.bill
        pairs = ((bill.tokens, budget.tokens), (bill.seconds, budget.seconds), (bill.flops, budget.flops))
        shares = [1.0 if limit == 0 else spent / limit for spent, limit in pairs if limit is not None]
        own = min(1.0, max(shares, default=0.0))
        return own if self._parent is None else max(own, self._parent.fraction_spent)

    @property
    def line(self) -> list[Ledger]:
        """This ledger, the one that it is a slice of, and so on up to the whole."""
        return [self] if self._parent is None else [self, *self._parent.line]

    @property
    def limited(self) -> bool:
        """Whether this ledger or a parent limits anything."""
        return self.budget != Budget() or (self._parent is not None and self._parent.limited)

    def slice(self, budget: Budget) -> Ledger:
        """A ledger for part of the work, bounded by ``budget`` and by what is left here."""
        return Ledger(budget, clock=self._clock, parent=self)

    def share(self, share: float) -> Budget:
        """That ``share`` of what is left of every limit."""
        left = {"tokens": self.tokens_left, "flops": self.flops_left, "seconds": self.seconds_left}
        return Budget(**{unit: share * amount for unit, amount in left.items() if amount < math.inf})

    def for_verifier(self) -> Ledger:
        """A ledger on the same budget that notes all it is charged as spent on verifying."""
        return Ledger(clock=self._clock, parent=self, verifying=True)
