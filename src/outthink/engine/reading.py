"""Readings: tasks that want logits after given tokens, from their start to the handing over of what was read."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Tokens

import numpy as np
from numpy.typing import NDArray

from outthink.engine.billing import Costs
from outthink.engine.sequence import Judge, Reading, Sequence, Task
from outthink.scheduling import Scheduler, Slice


class Readings:
    """Starts, settles and ends readings, in sequences that ``open_child`` makes and ``close`` gives up.

    ``over`` is called with a reading that ends, before its result is handed over.
    """

    def __init__(
        self,
        scheduler: Scheduler[Sequence],
        open_child: Callable[[Sequence, Tokens[int]], Sequence],
        close: Callable[[Sequence], None],
        over: Callable[[Task], None],
        costs: Costs,
    ) -> None:
        self._scheduler, self._open_child, self._close, self._over = scheduler, open_child, close, over
        self._costs, self._begun = costs, list[Reading]()  # those in flight, where FLOPs are limited

    def start(self, task: Reading, logits: NDArray[np.float32]) -> None:
        """Begin a reading whose parent's last logits [V] are known."""
        if task.ledger.tokens_left < task.price or not self._within_flops(task):
            self.end(task)
            return
        following = task.begin(logits)
        if task.complete:
            self.end(task)
            return
        task.sequence = self._open_child(task.parent, following)
        task.sequence.gang, task.sequence.reading = task.gang, task
        self._scheduler.add(task.sequence)

    def settle(self, task: Reading, piece: Slice[Sequence], logits: NDArray[np.float32]) -> None:
        """Take in the logits of a slice of its sequence."""
        task.take(logits[max(0, task.next_row - piece.start) :])  # but for rows computed before a preemption
        if task.complete:
            piece.sequence.tail_logits = logits[-1].copy()
            self.end(task)

    def end(self, task: Reading) -> None:
        """Hand over what was read; the sequence of a complete judgement with it, any other is closed."""
        self._over(task)
        sequence = task.sequence
        if sequence is not None:
            sequence.reading = None
            if isinstance(task, Judge) and task.complete:
                self._scheduler.rest(sequence)
            else:
                self._close(sequence)
                sequence = None
        task.done((task.read, sequence) if isinstance(task, Judge) else task.read)

    def _within_flops(self, task: Reading) -> bool:
        """Whether every ledger can pay for all of it beside what else is being read; it is in flight from now on."""
        if task.ledger.flops_left == math.inf:
            return True
        self._begun = [*(other for other in self._begun if not other.over), task]
        return all(
            sum(self._flops(other) for other in self._begun if each in other.ledger.line) <= each.flops_left
            for each in task.ledger.line
        )

    def _flops(self, task: Reading) -> int:
        """FLOPs of reading all of it."""
        count = len(task.tokens)
        return self._costs.positions(len(task.parent.tokens), count) + count * self._costs.head
