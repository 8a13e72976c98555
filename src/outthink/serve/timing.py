"""The moments of one request, from which its latencies are made: each is noted once, on one clock, where it happens."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from outthink.core.progress import Progress

if TYPE_CHECKING:
    from outthink.serve.metrics import Metrics
    from outthink.serve.tracing import Tracing

_NOW: ContextVar[Timing | None] = ContextVar("timing", default=None)


@dataclass
class Line:
    """When the first and the last token of one completion came, and how many there were, in monotonic seconds."""

    first: float
    last: float
    tokens: int = 1


@dataclass
class Timing:
    """``arrived`` and ``admitted`` in monotonic seconds; ``lines`` by prompt and index, written as tokens come."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    lines: dict[tuple[int, int], Line] = field(default_factory=dict)

    @staticmethod
    def begin() -> Timing:
        """That of a request which arrives now, in this context and the tasks made in it."""
        timing = Timing()
        _NOW.set(timing)
        return timing

    @staticmethod
    def of_waiting() -> Timing:
        """That of the request that this context works for, before its admission; a new one where that has been."""
        timing = _NOW.get()
        return timing if timing is not None and timing.admitted is None else Timing.begin()

    @staticmethod
    def of_admitted() -> Timing:
        """That of the request that this context works for, after its admission."""
        timing = _NOW.get()
        return timing if timing is not None else Timing.begin()

    def enter(self, metrics: Metrics, tracing: Tracing) -> None:
        """Note that the request is admitted."""
        self.admitted = time.monotonic()
        metrics.queue_time.observe(self.admitted - self.arrived)
        tracing.record("queue", self.arrived, self.admitted)

    def drew(self, metrics: Metrics, prompt: int, index: int, count: int) -> None:
        """Note ``count`` tokens of a completion that came together. Called on the stepping thread."""
        now = time.monotonic()
        line = self.lines.get((prompt, index))
        if line is None:
            if not self.lines:
                metrics.first_token.observe(now - self.arrived)
            line, count = self.lines.setdefault((prompt, index), Line(now, now)), count - 1
        for _ in range(count):
            metrics.between_tokens.observe((now - line.last) / count)
            metrics.between_tokens_old.observe((now - line.last) / count)
        line.last, line.tokens = now, line.tokens + count

    def settle(self, metrics: Metrics, tracing: Tracing) -> None:
        """Write down where the time between admission and the last token went."""
        lines = list(self.lines.values())
        if not lines or self.admitted is None:
            return
        first, last = min(line.first for line in lines), max(line.last for line in lines)
        metrics.prefill_time.observe(first - self.admitted)
        metrics.decode_time.observe(last - first)
        metrics.inference_time.observe(last - self.admitted)
        for line in lines:
            if line.tokens > 1:
                metrics.per_token.observe((line.last - line.first) / (line.tokens - 1))
        tracing.record("prefill", self.admitted, first)
        tracing.record("decode", first, last, lines=len(lines), tokens=sum(line.tokens for line in lines))

    def finish(self, metrics: Metrics) -> None:
        """Note that the request came to a good end."""
        metrics.whole.observe(time.monotonic() - self.arrived)


class Ticks(Progress):
    """Notes the tokens of the completions of one prompt, whether or not they have text."""

    def __init__(self, timing: Timing, metrics: Metrics, prompt: int) -> None:
        super().__init__(lambda: None)
        self._timing, self._metrics, self._prompt = timing, metrics, prompt

    def advance(self, index: int, count: int) -> None:
        """See `Progress`."""
        self._timing.drew(self._metrics, self._prompt, index, count)
