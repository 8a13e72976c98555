"""The rows of a batch as they lie in its file, read a piece at a time: no batch holds its whole file for long."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from outthink.serve.rows import Fault, Result, Row, Span, check_row, read_row, scan
from outthink.serve.service import Service

PIECE_BYTES = 1 << 20


@dataclass
class Survey:
    """What is in a file: where its rows lie, what is wrong with its lines, and the rows whose bodies are refused."""

    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    faults: list[Fault] = field(default_factory=list)
    refused: list[Result] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, number: int) -> Span:
        """Where row ``number`` lies."""
        return self.starts[number], self.ends[number]


def survey(content: bytes, endpoint: str, service: Service | None = None) -> Survey:
    """Look at every line of ``content``; with a ``service``, also whether it refuses what a row asks."""
    found = Survey()
    for (start, end), each in scan(content, endpoint):
        if isinstance(each, Fault):
            found.faults.append(each)
            continue
        found.starts.append(start)
        found.ends.append(end)
        if service is not None and (refused := check_row(service, each)) is not None:
            found.refused.append(refused)
    return found


class RowSource:
    """Hands out the rows of a file but those that are ``done``, in order, to any number of tasks of one event loop.

    ``piece(start, size)`` reads bytes of the file, on a thread of its own.
    """

    def __init__(self, found: Survey, done: Collection[int], piece: Callable[[int, int], Awaitable[bytes]]) -> None:
        self._found, self._piece = found, piece
        self._left = (number for number in range(len(found)) if number not in done)
        self._start, self._held = 0, b""
        self._turn = asyncio.Lock()

    async def next(self) -> Row | None:
        """The next row; None after the last."""
        async with self._turn:
            number = next(self._left, None)
            if number is None:
                self._held = b""
                return None
            start, end = self._found.span(number)
            if end > self._start + len(self._held):
                self._start, self._held = start, await self._piece(start, max(PIECE_BYTES, end - start))
            line = self._held[start - self._start : end - self._start]
        return await asyncio.to_thread(read_row, line, number)
