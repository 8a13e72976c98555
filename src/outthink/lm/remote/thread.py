"""An event loop on a thread of its own, so that callers on any loop share one set of connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from outthink.core.errors import EngineError

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for others. Cancelling the wait for one cancels it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` on the thread. Raises EngineError where it was closed."""
        if self._loop.is_closed() or not self._thread.is_alive():
            work.close()
            raise EngineError("The connection was closed; connect again.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, awaited from any event loop."""
        return await asyncio.wrap_future(self.start(work))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; blocks. Cancels it on ctrl-C."""
        future = self.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Cancel what still runs, run ``last``, and end the thread."""
        self.start(_end(last)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end(last: Coroutine[Any, Any, None] | None) -> None:
    await _cancel_others()
    if last is not None:
        await last
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _cancel_others() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
