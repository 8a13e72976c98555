"""How connections are taken: HTTP/1.1 alone, heads of bounded size and age, and no more of them than can be served."""

from __future__ import annotations

import asyncio

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from outthink.serve.config import ServeConfig

HEAD_SECONDS = 30.0
MAX_HEAD = 32 << 10


def connections(app: ASGIApp, config: ServeConfig, head_seconds: float = HEAD_SECONDS) -> uvicorn.Config:
    """Settings of a uvicorn that serves ``app``. What is installed beside it does not change them.

    ``head_seconds``: within which the head of a request, once begun, must be complete.
    """

    class Connection(Patience):
        patience = head_seconds

    return uvicorn.Config(
        app,
        http=Connection,  # h11, with which heads are bounded; httptools bounds nothing
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=4 * (config.max_running + config.max_waiting),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


class Patience(H11Protocol):
    """A connection that hangs up on whoever takes longer than ``patience`` seconds over the head of a request."""

    patience = HEAD_SECONDS
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.patience, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
