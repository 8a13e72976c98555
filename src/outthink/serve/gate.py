"""Who is worked on now: at most so many requests at once, tenants in turn, and a queue with an end."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outthink.serve.failures import ApiError


class Gate:
    """Admits requests. Of those that wait, the next is the oldest of the tenant with the fewest running."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running, self.max_waiting = max_running, max_waiting
        self.running: Counter[str] = Counter()
        self.closing = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def num_running(self) -> int:
        return self.running.total()

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def admitted(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises ApiError 429 where the queue is full, 503 where the server stops."""
        await self._enter(tenant)
        try:
            yield
        finally:
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
                if not place.done():
                    place.set_exception(_stopping())
        self._waiting.clear()
        await self._drained.wait()

    async def _enter(self, tenant: str) -> None:
        self.refuse_if_closing()
        if self.num_running < self.max_running and not self._waiting:
            self._take(tenant)
            return
        if self.num_waiting >= self.max_waiting:
            raise ApiError(
                429,
                f"{self.max_waiting} requests wait already; try again later.",
                "rate_limit_error",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:  # admitted, and gone since
                self._leave(tenant)
            elif tenant in self._waiting and place in self._waiting[tenant]:
                self._waiting[tenant].remove(place)
                if not self._waiting[tenant]:
                    del self._waiting[tenant]
            raise

    def _take(self, tenant: str) -> None:
        self.running[tenant] += 1
        self._drained.clear()

    def _leave(self, tenant: str) -> None:
        self.running -= Counter({tenant: 1})  # keeps only what is above 0
        self._admit_next()
        if not self.running:
            self._drained.set()

    def _admit_next(self) -> None:
        while self.num_running < self.max_running and self._waiting:
            tenant = min(self._waiting, key=lambda t: self.running[t])
            queue = self._waiting[tenant]
            place = queue.popleft()
            if not queue:
                del self._waiting[tenant]
            if not place.done():
                self._take(tenant)
                place.set_result(None)


def _stopping() -> ApiError:
    return ApiError(
        503, "The server is shutting down.", "server_error", code="shutting_down", headers={"Retry-After": "5"}
    )
