"""Work in flight on the continuous batch, taken back in an order that the work alone decides.

Nothing waits for a barrier: whichever piece of work is over first comes back first. But "first" by the wall clock would
depend on what else the engine is doing, and with it every later decision of a search. So time is counted in tokens: a
piece of work launched at time t that draws its longest child in k tokens is over at t + 2 + k. On a continuous batch
that is also the order of the wall clock, nearly always, so that hardly anything waits; where it is not, the earlier one
is waited for (as in the conservative simulation of parallel events: Chandy and Misra 1979, IEEE TSE 5).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from outthink.core.progress import Progress
from outthink.lm.protocol import OnToken
from outthink.lm.reply import post

LAUNCH = 2  # tokens' time from launching work to its first token: without it, what is launched later seems to lag
T = TypeVar("T")
Work = Callable[[OnToken], Awaitable[tuple[T, int]]]
"""Given what to call for each token drawn, returns its result and the number of tokens of its longest child."""


@dataclass(eq=False)
class _Job(Generic[T]):
    start: int
    order: int
    progress: Progress
    task: asyncio.Task[tuple[T, int]] = field(init=False)

    @property
    def earliest(self) -> tuple[int, int]:
        """A bound on when it is over, exact once it is; the order of launching breaks ties."""
        drawing = self.start + LAUNCH
        if self.task.done():
            return drawing + self.task.result()[1], self.order
        # One less than were shown: the last token of a child may show its text in two parts.
        return drawing + max(0, self.progress.longest - 1), self.order


class Flight(Generic[T]):
    """Whoever launches work must `cancel` what is left in the end."""

    def __init__(self) -> None:
        self._jobs: list[_Job[T]] = []
        self._now = self._launched = 0
        self._moved, self._behind = asyncio.Event(), set[_Job[T]]()

    def __len__(self) -> int:
        return len(self._jobs)

    def launch(self, work: Work[T]) -> None:
        """Start ``work`` beside the rest."""
        loop = asyncio.get_running_loop()
        job = _Job[T](self._now, self._launched, Progress(lambda: post(loop, lambda: self._pass(job))))

        async def run() -> tuple[T, int]:
            return await work(job.progress)

        job.task = asyncio.create_task(run())
        job.task.add_done_callback(lambda _: self._moved.set())
        self._jobs.append(job)
        self._launched += 1

    async def next(self) -> T:
        """The result of the work that is over first, once no other can be over before it. Raises what work raised."""
        while True:
            for job in self._jobs:
                if job.task.done() and (job.task.cancelled() or job.task.exception() is not None):
                    self._jobs.remove(job)
                    return (await job.task)[0]
            first = min(self._jobs, key=lambda job: job.earliest)
            if first.task.done():
                self._jobs.remove(first)
                self._now = first.earliest[0]
                return first.task.result()[0]
            await self._wait()

    async def _wait(self) -> None:
        """Sleep until more work is over, or the rest has drawn so much that what is over goes first."""
        over, order = min((job.earliest for job in self._jobs if job.task.done()), default=(math.inf, 0))
        self._behind = {job for job in self._jobs if not job.task.done() and job.earliest < (over, order)}
        self._moved.clear()
        for job in self._behind:
            job.progress.wait_beyond(over - job.start - LAUNCH + (job.order < order))
        await self._moved.wait()
        for job in self._behind:
            job.progress.wait_beyond(math.inf)

    def _pass(self, job: _Job[T]) -> None:
        """Note that ``job`` has drawn more than what is over."""
        self._behind.discard(job)
        if not self._behind:
            self._moved.set()

    async def cancel(self) -> None:
        """Cancel what is in flight and wait until it is gone."""
        for job in self._jobs:
            job.task.cancel()
        await asyncio.gather(*(job.task for job in self._jobs), return_exceptions=True)
        self._jobs.clear()
