"""Answers that are given up as soon as nobody waits for them: whole ones, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from outthink.core.errors import OutthinkError
from outthink.serve.failures import ApiError, as_api_error

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
PART_BYTES = 16 << 10
log = logging.getLogger("outthink.serve")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client disconnects. Raises ClientDisconnect then."""
    return await _race(request.receive, work)


class EventStream(Response):
    """Server-sent events, a JSON object each, then ``[DONE]``. An event that is bytes is written already; those of a
    list are sent together.

    Nothing is sent before the first event is there, so that what fails until then is answered with its own status; a
    failure after that is an event with ``error``. A client that leaves, or does not read, ends ``events``.
    """

    def __init__(self, events: AsyncIterator[Any], patience: float = PATIENCE_SECONDS) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events, self._patience = events, patience
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _race(receive, self._pump(scope, receive, send))
        except ClientDisconnect:
            log.info("client gone", extra={"request_id": scope["state"]["request_id"]})

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def write(piece: bytes, more: bool = True) -> None:
            await _write(send, piece, more, self._patience)

        async with aclosing(self._events) as events:  # type: ignore[type-var]
            try:
                async for event in events:
                    for part in _parts(event if isinstance(event, list) else [event]):
                        if not started:
                            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                            started = True
                        await write(part)
            except (ApiError, OutthinkError, TimeoutError) as error:
                failure = as_api_error(error)
                if not started:
                    await failure.response()(scope, receive, send)
                    return
                await write(f"data: {json.dumps(failure.body())}\n\n".encode())
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await write(b"data: [DONE]\n\n", more=False)


def _parts(events: list[Any]) -> Iterator[bytes]:
    """Events on the wire, so many of them together that even a slow client takes them in time."""
    part = b""
    for framed in map(_framed, events):
        if part and len(part) + len(framed) > PART_BYTES:
            yield part
            part = b""
        part += framed
    if part:
        yield part


def _framed(event: Any) -> bytes:
    """An event on the wire; those of a response, which have a type, are named by it."""
    if isinstance(event, bytes):
        return b"data: %s\n\n" % event
    kind = str(event.get("type", "")) if isinstance(event, dict) else ""
    name = f"event: {kind}\n" if kind.startswith("response.") else ""
    return f"{name}data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


class Download(Response):
    """Bytes that are fetched piece by piece as the client takes them, so that no more than one piece is held."""

    def __init__(self, pieces: AsyncIterator[bytes], size: int, patience: float = PATIENCE_SECONDS) -> None:
        super().__init__(media_type="application/octet-stream", headers={"Content-Length": str(size)})
        self._pieces, self._patience = pieces, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pump() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await _write(send, piece, True, self._patience)
            await _write(send, b"", False, self._patience)

        try:
            await _race(receive, pump())
        except ClientDisconnect:
            log.info("client gone", extra={"request_id": scope["state"]["request_id"]})


async def _write(send: Send, piece: bytes, more: bool, patience: float) -> None:
    """Send a piece of a body. Raises ClientDisconnect where the client takes nothing for ``patience`` seconds."""
    try:
        async with asyncio.timeout(patience):
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            await asyncio.sleep(0)  # one with much to send must hear that its client is gone, and give others a turn
    except TimeoutError as error:
        raise ClientDisconnect from error


async def _race(receive: Receive, work: Awaitable[T]) -> T:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
