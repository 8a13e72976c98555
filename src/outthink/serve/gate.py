"""Who is worked on now: at most so many requests at once, tenants in turn, and a queue with an end."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from bisect import insort
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from outthink.serve.failures import ApiError

LONGEST_RETRY = 600


@dataclass(order=True)
class _Place:
    """A request that waits, in its order among those of its tenant; ``free`` is set when it may go in."""

    priority: int
    number: int
    free: asyncio.Future[None] = field(compare=False)


class Gate:
    """Admits requests. Of those that wait, the next is of the tenant with the fewest running: that of lowest priority
    number, of these the oldest.

    Where ``max_waiting`` wait already, the last of the tenant with most of them is refused, be it who comes or another:
    so nobody can fill the queue for others. ``max_each``: of one tenant no more than that are in at once.
    ``clock`` is in seconds.
    """

    def __init__(
        self,
        max_running: int,
        max_waiting: int = sys.maxsize,
        clock: Callable[[], float] = time.monotonic,
        max_each: int = sys.maxsize,
    ) -> None:
        self.max_running, self.max_waiting, self.max_each = max_running, max_waiting, max_each
        self.running: Counter[str] = Counter()
        self.closing = False
        self.num_refused = 0
        self._clock = clock
        self._numbers = count()
        self._entered: dict[int, float] = {}
        self._took: deque[float] = deque(maxlen=64)
        self._waiting: dict[str, list[_Place]] = {}
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def num_running(self) -> int:
        return self.running.total()

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def retry_after(self) -> int:
        """Whole seconds until all who wait now will have gone in, from 1 to `LONGEST_RETRY`.

        As long as ``max_running`` places take that are left as fast as the last 64 requests left theirs (Little's law),
        or as slowly as those that are in now have not left theirs.
        """
        now = self._clock()
        took, ages = list(self._took), [now - entered for entered in self._entered.values()]
        seconds = max((sum(times) / len(times) for times in (took, ages) if times), default=0.0)
        return min(LONGEST_RETRY, max(1, math.ceil(seconds * (self.num_waiting + 1) / self.max_running)))

    @asynccontextmanager
    async def admitted(self, tenant: str, priority: int = 0) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises ApiError 429 where the queue is full, 503 where the server stops."""
        await self._enter(tenant, priority)
        number = next(self._numbers)
        self._entered[number] = self._clock()
        try:
            yield
        finally:
            self._took.append(self._clock() - self._entered.pop(number))
            self._leave(tenant)

    def refuse_if_closing(self) -> None:
        """Raise ApiError 503 where the server stops."""
        if self.closing:
            raise _stopping()

    async def drain(self) -> None:
        """Refuse whoever comes or waits, and return once nobody is worked on."""
        self.closing = True
        for queue in self._waiting.values():
            for place in queue:
                if not place.free.done():
                    place.free.set_exception(_stopping())
        self._waiting.clear()
        await self._drained.wait()

    async def _enter(self, tenant: str, priority: int) -> None:
        self.refuse_if_closing()
        if self.num_running < self.max_running and self.running[tenant] < self.max_each and not self._waiting:
            self._take(tenant)
            return
        place = _Place(priority, next(self._numbers), asyncio.get_running_loop().create_future())
        insort(self._waiting.setdefault(tenant, []), place)
        self._admit_next()  # those who wait may be of tenants that have all they may
        if self.num_waiting > self.max_waiting:
            self._refuse_last(tenant)
        try:
            await place.free
        except asyncio.CancelledError:
            if place.free.done() and not place.free.cancelled() and place.free.exception() is None:
                self._leave(tenant)  # it was admitted, and is gone since
            elif place in self._waiting.get(tenant, ()):
                self._remove(tenant, place)
            raise

    def _refuse_last(self, comer: str) -> None:
        """Answer 429 to the last of the tenant that has most waiting; that of who comes, among several."""
        tenant = max(self._waiting, key=lambda each: (len(self._waiting[each]), each == comer))
        place = self._waiting[tenant][-1]
        self._remove(tenant, place)
        self.num_refused += 1
        if not place.free.done():
            place.free.set_exception(
                ApiError(
                    429,
                    f"{self.max_waiting} requests wait already; try again later.",
                    "rate_limit_error",
                    code="queue_full",
                    headers={"Retry-After": str(self.retry_after)},
                )
            )

    def _take(self, tenant: str) -> None:
        self.running[tenant] += 1
        self._drained.clear()

    def _leave(self, tenant: str) -> None:
        self.running -= Counter({tenant: 1})  # keeps only what is above 0
        self._admit_next()
        if not self.running:
            self._drained.set()

    def _admit_next(self) -> None:
        while self.num_running < self.max_running:
            able = [tenant for tenant in self._waiting if self.running[tenant] < self.max_each]
            if not able:
                return
            tenant = min(able, key=lambda t: self.running[t])
            place = self._waiting[tenant][0]
            self._remove(tenant, place)
            if tenant in self._waiting:  # behind others that have as few in
                self._waiting[tenant] = self._waiting.pop(tenant)
            if not place.free.done():
                self._take(tenant)
                place.free.set_result(None)

    def _remove(self, tenant: str, place: _Place) -> None:
        queue = self._waiting[tenant]
        queue.remove(place)
        if not queue:
            del self._waiting[tenant]


def _stopping() -> ApiError:
    return ApiError(
        503, "The server is shutting down.", "server_error", code="shutting_down", headers={"Retry-After": "5"}
    )
