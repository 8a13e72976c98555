"""Branches held open, so that none is left behind; and work done together, so that none of it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

from outthink.core.together import together
from outthink.lm.protocol import Branch

__all__ = ["Holding", "together"]


class Holding:
    """The open branches of a piece of work. Leaving it closes them all, whatever happened."""

    def __init__(self) -> None:
        self._open: dict[Branch, None] = {}

    def add(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        """Hold ``branches`` open; call it in the very turn in which they are returned."""
        self._open |= dict.fromkeys(branches)
        return branches

    def take(self, other: Holding, branches: Iterable[Branch]) -> None:
        """Hold those of ``branches`` that ``other`` holds, in its stead."""
        for branch in branches:
            if branch in other._open:
                del other._open[branch]
                self._open[branch] = None

    def release(self, branch: Branch) -> None:
        """Hold ``branch`` no longer, and leave it open: whoever gets it closes it."""
        del self._open[branch]

    async def keep(self, branches: Iterable[Branch]) -> None:
        """Close all others."""
        wanted = set(branches)
        for branch in [b for b in self._open if b not in wanted]:
            await branch.close()
            del self._open[branch]

    async def __aenter__(self) -> Holding:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keep(())
