"""A result on its way from the stepping thread to the coroutine that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Reply(Generic[T]):
    """Made by the coroutine, which then awaits `wait`; `send` and `fail` are called on the stepping thread.

    Whoever asked may be cancelled, or its event loop closed, at any moment. A result that nobody takes any more goes to
    ``discard``, exactly once, so that what it holds can be given back.
    """

    def __init__(self, discard: Callable[[T], None]) -> None:
        self._loop, self._discard = asyncio.get_running_loop(), discard
        self._future: asyncio.Future[T] = self._loop.create_future()

    def send(self, result: T) -> None:
        """Deliver ``result``."""
        if not post(self._loop, lambda: self._deliver(result)):
            self._discard(result)

    def fail(self, error: BaseException) -> None:
        """Have `wait` raise ``error``, unless it is over."""
        post(self._loop, lambda: None if self._future.done() else self._future.set_exception(error))

    async def wait(self) -> T:
        """The result, once it is there."""
        try:
            return await self._future
        except asyncio.CancelledError:
            if self._future.done() and not self._future.cancelled() and self._future.exception() is None:
                self._discard(self._future.result())  # it came in the very turn in which the wait was cancelled
            raise

    def _deliver(self, result: T) -> None:
        if self._future.done():
            self._discard(result)
        else:
            self._future.set_result(result)


def post(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Have an event loop run ``callback``, from any thread; False where it is closed, so that nobody waits."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True
