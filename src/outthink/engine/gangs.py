"""As what tasks compete for the room of a step."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

from outthink.core.budget import Ledger
from outthink.engine.sequence import Task
from outthink.scheduling import Gang


class Gangs:
    """All that is paid from one whole ledger is one gang, for as long as somebody holds the ledger."""

    def __init__(self, arrivals: Iterator[int]) -> None:
        self._arrivals = arrivals
        self._of: WeakKeyDictionary[Ledger, Gang] = WeakKeyDictionary()

    def of(self, task: Task) -> Gang:
        """The gang of a task; made with it where it is the first."""
        whole = task.ledger.line[-1]
        gang = self._of.get(whole)
        if gang is None:
            gang = self._of[whole] = Gang(whole.priority, task.parent.namespace, next(self._arrivals))
        return gang
