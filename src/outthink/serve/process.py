"""The server as a process: told to stop once, it lets those in flight finish; told again, it ends at once."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from types import FrameType

import uvicorn

from outthink.serve.gate import Gate

log = logging.getLogger("outthink.serve")


class GracefulServer(uvicorn.Server):
    """Serves until the first SIGTERM or ctrl-C, then drains: it still listens, but to say 503, and ends once nobody is
    worked on any more, or after ``grace`` seconds. The second signal ends it now, and is left in ``forced_by``.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, grace: float) -> None:
        super().__init__(config)
        self.forced_by: int | None = None
        self._gate, self._grace = gate, grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._told = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.serve`."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)
        if self._draining is not None:
            self._draining.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self._told:
            self.forced_by = sig
            self.should_exit = self.force_exit = True
        elif self._loop is not None:
            self._told = True
            self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        log.warning(
            "stopping: %d requests in flight have %g s; tell me again to stop now", self._gate.num_running, self._grace
        )
        end = time.monotonic() + self._grace
        try:
            async with asyncio.timeout(self._grace):
                await self._gate.drain()
        except TimeoutError:
            log.warning("%d requests in flight were not finished in time", self._gate.num_running)
        # What is left is handing over the last bytes, and those who were not finished are cut.
        self.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
        self.should_exit = True
