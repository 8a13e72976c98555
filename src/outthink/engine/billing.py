"""Who pays for what a step computes: each position of a tree once, as tokens and as FLOPs, and never over a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.engine.sequence import Reading, Sequence, Task
from outthink.scheduling import Slice

Draw = tuple[Sequence, NDArray[np.float32]]  # a child that is to draw a token, and the logits that it draws from


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
        self._lines: dict[Ledger, list[Ledger]] = {}

    def take(self, ledger: Ledger, wanted: int) -> int:
        """Set aside up to ``wanted`` tokens of ``ledger``; returns how many there were."""
        line = self._lines.get(ledger)
        if line is None:
            line = self._lines[ledger] = ledger.line
            for each in line:
                self._left.setdefault(each, each.tokens_left)
        granted = wanted
        for each in line:
            if self._left[each] < granted:
                granted = int(self._left[each])
        for each in line:
            self._left[each] -= granted
        return granted

    def allow(self, sequence: Sequence, start: int, count: int) -> int:
        """How many of ``count`` positions from ``start`` on can be paid for, after those before them that were found in
        the cache; those paid before are free.
        """
        unpaid = max(0, start + count - sequence.progress[0])
        if not unpaid:
            return count
        return max(0, count - unpaid + self.take(payer(sequence).ledger, unpaid))


def unpayable(tasks: Iterable[Task]) -> Iterator[Task]:
    """The tasks whose ledger is exhausted, or cannot pay for what must be computed before their first token."""
    tasks = list(tasks)
    spent = {ledger: ledger.exhausted for ledger in {task.ledger for task in tasks}}
    purse = Purse()
    for task in tasks:
        waits = task in task.parent.tasks
        if spent[task.ledger] or (waits and purse.take(task.ledger, price := _price(task)) < price):
            yield task


def payable(task: Task) -> bool:
    """Whether a task whose parent was computed for others can pay for what of it is on no bill of its tree yet."""
    return task.prompt.unpaid + _least(task) <= task.ledger.tokens_left


def _price(task: Task) -> int:
    """Tokens that a task must be able to pay before its first draw: the least of its own, and its parent's unbilled
    positions if it is the one to pay for them.
    """
    parent = task.parent
    return _least(task) + (len(parent.tokens) - parent.progress[0] if parent.tasks[0] is task else 0)


def _least(task: Task) -> int:
    return task.price if isinstance(task, Reading) else 1


def payer(sequence: Sequence) -> Task:
    """Whom the positions of a sequence are computed for: of several waiting tasks, the first."""
    if sequence.generation is not None and sequence.generation.finish is None:
        return sequence.generation.extend
    return sequence.reading if sequence.reading is not None else sequence.tasks[0]


def bill(slices: Iterable[Slice[Sequence]], costs: Costs, stats: Stats) -> None:
    """Charge the positions of a step that nobody has paid for, and those before them that were in the cache.

    To be called before any of the results is taken in.
    """
    owed: dict[Ledger, list[int]] = {}  # positions computed, positions found in the cache, FLOPs
    for piece in slices:
        sequence, start, end = piece.sequence, piece.start, piece.start + piece.count
        task = payer(sequence)
        billed, reached = sequence.progress
        first_time = max(0, end - max(start, reached))
        stats.positions += piece.count
        stats.recomputed += piece.count - first_time
        prompt = task.prompt
        if prompt.unpaid:
            prompt.unpaid -= min(prompt.unpaid, max(0, min(end, prompt.length) - billed))
        line = owed.setdefault(task.ledger, [0, 0, 0])
        line[0] += max(0, end - max(start, billed))
        line[1] += max(0, start - billed)
        line[2] += costs.positions(end - first_time, first_time) + _rows(piece) * costs.head
        sequence.mark(end)
    for ledger, (prefilled, cached, flops) in owed.items():
        stats.prefilled += prefilled
        stats.cached += cached
        ledger.charge(prefilled=prefilled, cached=cached, flops=flops)


def split_affordable(draws: Iterable[Draw]) -> tuple[list[Draw], list[Draw]]:
    """The draws whose token can be paid for, and is charged here; and the others."""
    purse, charges = Purse(), Counter[Ledger]()
    open_ledgers: dict[Ledger, bool] = {}
    paid: list[Draw] = []
    others: list[Draw] = []
    for draw in draws:
        ledger = payer(draw[0]).ledger
        if ledger not in open_ledgers:
            open_ledgers[ledger] = not ledger.cancelled and ledger.flops_left > 0
        if open_ledgers[ledger] and purse.take(ledger, 1):
            charges[ledger] += 1
            paid.append(draw)
        else:
            others.append(draw)
    for ledger, count in charges.items():
        ledger.charge(decoded=count)
    return paid, others


def _rows(piece: Slice[Sequence]) -> int:
    """How many rows of logits a slice is computed for."""
    sequence, end = piece.sequence, piece.start + piece.count
    if sequence.reading is not None:
        return max(0, end - max(piece.start, sequence.reusable))
    return int(end == len(sequence.tokens))
