"""Text that is streamed while it may still turn out to be the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class StopHold:
    """Passes text on as it comes, but for an end that may belong to one of ``stops``, which is kept back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self._sent = tuple(stops), "", 0

    @property
    def holds(self) -> bool:
        """Whether some text is kept back."""
        return bool(self._held)

    def add(self, text: str) -> str:
        """What of the text so far may be sent now and was not yet."""
        self._held += text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(ready) :]
        self._sent += len(ready)
        return ready

    def finish(self, whole: str) -> str:
        """The rest of ``whole``, the text as it ended up."""
        return whole[self._sent :]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins with, or is a beginning of, ``stop``."""
    at = text.find(stop)
    if at >= 0:
        return len(text) - at
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
