"""How far work that draws tokens has come, for those who act on it before it is over."""

from __future__ import annotations

import math
from collections.abc import Callable

from outthink.core.budget import Settable


class Progress:
    """The number of tokens of the longest child of an extension, or of several one after another.

    It is an `OnToken` that wants no text: whoever draws may count many tokens at once, but draws no more than ``room``
    of them before it counts. ``reached()`` is called, perhaps on another thread, once there are more than are awaited.
    """

    def __init__(self, reached: Callable[[], object]) -> None:
        self.longest = 0
        self._reached, self._awaited = reached, math.inf
        self._drawn: dict[int, int] = {}
        self._drawing: tuple[Settable, ...] = ()

    def __call__(self, index: int, text: str) -> None:
        """Count the token that ``text`` came with."""
        self.advance(index, 1)

    def advance(self, index: int, count: int) -> None:
        """Count ``count`` more tokens of child ``index``."""
        self._drawn[index] = drawn = self._drawn.get(index, 0) + count
        self.longest = max(self.longest, drawn)
        if self.longest > (awaited := self._awaited):
            if awaited == self._awaited:  # else it was asked for anew, and that asker has looked for itself
                self._awaited = math.inf
            self._reached()

    def wait_beyond(self, length: float) -> None:
        """Ask for one call of ``reached`` once there are more tokens than ``length``, in place of any asked for."""
        sooner, self._awaited = length < self._awaited, length
        if self.longest > length:
            self._awaited = math.inf
            self._reached()
        elif sooner:
            for drawing in self._drawing:
                drawing.set()

    @property
    def room(self) -> float:
        """How many more tokens any child may draw before they are to be counted; at least 1."""
        awaited = self._awaited  # read once: it may change at any moment
        return max(1, math.floor(awaited) + 1 - self.longest) if awaited < math.inf else math.inf

    def watch(self, drawing: Settable) -> None:
        """Have ``drawing.set()`` called, from whatever thread, where ``room`` is suddenly less than it was."""
        self._drawing = (*self._drawing, drawing)
