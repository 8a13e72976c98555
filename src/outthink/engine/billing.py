"""Who pays for what a step computes: each position of a tree once, as tokens and as FLOPs, and never over a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from outthink.core.budget import Ledger
from outthink.engine.sequence import Sequence, Task
from outthink.scheduling import Slice


@dataclass(frozen=True)
class Costs:
    """FLOPs of computing ``count`` positions from ``start`` on, and of one row of logits."""

    positions: Callable[[int, int], int]
    head: int


@dataclass
class Stats:
    """Counters since the engine was made."""

    steps: int = 0
    positions: int = 0
    recomputed: int = 0
    drawn: int = 0
    prefilled: int = 0
    cached: int = 0


class Purse:
    """The tokens that ledgers have left, set aside bit by bit; a slice of a ledger takes from the whole as well."""

    def __init__(self) -> None:
        self._left: dict[Ledger, float] = {}

    def take(self, ledger: Ledger, wanted: int) -> int:
        """Set aside up to ``wanted`` tokens of ``ledger``; returns how many there were."""
        line = ledger.line
        for each in line:
            self._left.setdefault(each, each.tokens_left)
        granted = int(min(wanted, *(self._left[each] for each in line)))
        for each in line:
            self._left[each] -= granted
        return granted

    def allow(self, sequence: Sequence, start: int, count: int) -> int:
        """How many of ``count`` positions from ``start`` on can be paid for; those paid before are free."""
        paid = max(0, min(sequence.progress[0], start + count) - start)
        return paid + self.take(payer(sequence).ledger, count - paid)


def payer(sequence: Sequence) -> Task:
    """Whom the positions of a sequence are computed for: of several waiting tasks, the first."""
    if sequence.generation is not None and sequence.generation.finish is None:
        return sequence.generation.extend
    return sequence.reading if sequence.reading is not None else sequence.tasks[0]


def bill(slices: Iterable[Slice[Sequence]], costs: Costs, stats: Stats) -> None:
    """Charge the positions of a step that nobody has paid for, and those before them that were in the cache.

    To be called before any of the results is taken in.
    """
    flops, prefilled, cached = Counter[Ledger](), Counter[Ledger](), Counter[Ledger]()
    for piece in slices:
        sequence, start, end = piece.sequence, piece.start, piece.start + piece.count
        task = payer(sequence)
        billed, reached = sequence.progress
        first_time = max(0, end - max(start, reached))
        stats.positions += piece.count
        stats.recomputed += piece.count - first_time
        prefilled[task.ledger] += max(0, end - max(start, billed))
        cached[task.ledger] += max(0, start - billed)
        prompt = task.prompt
        prompt.unpaid -= min(prompt.unpaid, max(0, min(end, prompt.length) - billed))
        flops[task.ledger] += costs.positions(end - first_time, first_time) + _rows(piece) * costs.head
        sequence.mark(end)
    stats.prefilled += prefilled.total()
    stats.cached += cached.total()
    for ledger in {**flops, **prefilled, **cached}:
        ledger.charge(prefilled=prefilled[ledger], cached=cached[ledger], flops=flops[ledger])


def _rows(piece: Slice[Sequence]) -> int:
    """How many rows of logits a slice is computed for."""
    sequence, end = piece.sequence, piece.start + piece.count
    if sequence.reading is not None:
        return max(0, end - max(piece.start, sequence.reusable))
    return int(end == len(sequence.tokens))
