"""The job database from the event loop: on threads of its own, so that one that hangs holds up nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from outthink.serve.database import StoreError
from outthink.serve.failures import ApiError

P = ParamSpec("P")
T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.25, 15.0
log = logging.getLogger("outthink.serve")


class Stored:
    """Calls to the database, a few at a time."""

    def __init__(self, threads: int = 4) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="outthink-store")

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``call``. Raises ApiError 503 where the database refuses."""
        try:
            return await self._call(lambda: call(*args, **kwargs))
        except StoreError as error:
            raise ApiError(
                503,
                "The job database cannot be used now; requests that need none are answered.",
                "server_error",
                code="store_unavailable",
                headers={"Retry-After": "5"},
            ) from error

    async def insist(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``call``, which is tried again for as long as the database refuses: what it writes was paid
        for."""
        wait = FIRST_WAIT
        while True:
            try:
                return await self._call(lambda: call(*args, **kwargs))
            except StoreError as error:
                log.warning("will try again in %g s: %s", wait, error)
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait)

    def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        self._threads.shutdown(cancel_futures=True)

    async def _call(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
