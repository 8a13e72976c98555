"""A lock that is handed on in the order in which it was asked for."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from types import TracebackType

_NUMBERS = itertools.count()


class Turns:
    """Who comes first has the first turn, and whoever gives up its own is the last in line again.

    Whoever takes turns in several things takes them in the order of ``number``, so that nobody waits in a circle.
    """

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self._lock = threading.Lock()
        self._line: deque[threading.Lock] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many are in line behind whoever has the turn."""
        return len(self._line)

    def __enter__(self) -> Turns:
        with self._lock:
            if not self._taken:
                self._taken = True
                return self
            mine = threading.Lock()
            mine.acquire()
            self._line.append(mine)
        mine.acquire()  # until the one before lets go of it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().release()
            else:
                self._taken = False
