"""Text on stdout as it is drawn, without what a stop string ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from outthink.cli.console import printable


class TextStream:
    """Writes pieces of one text as they come, but never any part of a stop string.

    `on_token` may be called from any thread; ``write`` is called by the event loop in which the stream was made. When
    it raises OSError (the reader has gone away, the disk is full), ``give_up`` is called, and `finish` raises it again.
    """

    def __init__(self, stop: Sequence[str], give_up: Callable[[], None], write: Callable[[str], None]) -> None:
        self._stop, self._give_up, self._write_out = tuple(stop), give_up, write
        self._loop = asyncio.get_running_loop()
        self._text, self._written = "", 0
        self._broken: OSError | None = None

    def on_token(self, _index: int, text: str) -> None:
        """Take a new piece; see `outthink.lm.protocol.OnToken`."""
        self._loop.call_soon_threadsafe(self._take, text)

    async def finish(self, completion: str) -> None:
        """Write what is left of ``completion``, the whole text, and end its last line."""
        await asyncio.sleep(0)  # pieces that are on their way come first
        self._write(completion[self._written :])
        if not completion.endswith("\n"):
            self._write("\n")
        if self._broken is not None:
            raise self._broken

    def _take(self, text: str) -> None:
        self._text += text
        safe = held_back(self._text, self._stop)
        if safe > self._written:
            self._write(self._text[self._written : safe])
            self._written = safe

    def _write(self, text: str) -> None:
        if self._broken is not None or not text:
            return
        try:
            self._write_out(text)
        except OSError as error:
            self._broken = error
            self._give_up()


def to_stdout(text: str) -> None:
    """Write ``text`` to stdout at once; to a terminal, without control characters."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def held_back(text: str, stop: Sequence[str]) -> int:
    """How much of ``text`` cannot belong to a stop string, whatever is written next."""
    found = [at for needle in stop if (at := text.find(needle)) >= 0]
    if found:
        return min(found)
    longest = max((len(needle) for needle in stop), default=1) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(needle.startswith(text[at:]) for needle in stop):
            return at
    return len(text)
