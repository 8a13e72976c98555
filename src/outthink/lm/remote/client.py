"""One server over HTTP: typed errors, a bound on requests in flight, retries for short calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

from outthink.lm.remote.connection import Connection, Patience
from outthink.lm.remote.errors import (
    BusyError,
    InterruptedResponseError,
    StalledError,
    TransientError,
    UnreachableError,
    UnusableResponseError,
    failure,
)
from outthink.lm.remote.events import events, json_object

if TYPE_CHECKING:
    import httpx


Fatal = tuple[type[TransientError], ...]


class Client:
    """To be made and used within one event loop."""

    def __init__(self, connection: Connection) -> None:
        import httpx

        self.connection, self.model = connection, connection.model
        self.rng = random.Random()
        self._slots = asyncio.Semaphore(connection.concurrency)
        self._hold_until = 0.0
        headers = {"Authorization": f"Bearer {connection.api_key}"} if connection.api_key else {}
        timeout = httpx.Timeout(connection.read_timeout_s, connect=connection.connect_timeout_s, pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=connection.concurrency)
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def get(self, path: str, fatal: Fatal = ()) -> dict[str, Any]:
        """The JSON object at ``path``, with retries but for ``fatal`` errors."""
        return await self._patiently("GET", path, None, fatal)

    async def post(self, path: str, body: dict[str, Any], fatal: Fatal = ()) -> dict[str, Any]:
        """The JSON object that answers ``body``, with retries but for ``fatal`` errors."""
        return await self._patiently("POST", path, body, fatal)

    def patience(self) -> Patience:
        """The retries of a new piece of work."""
        return Patience(self.connection, self.rng)

    async def stream(
        self, path: str, body: dict[str, Any], on_sent: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events that answer ``body``, in one attempt; a server that does not stream sends a single one.

        ``on_sent`` is called when the request goes out: it may wait for its turn before. Raises TransientError where
        another attempt may do better. Closing the iterator drops the connection.
        """
        async with self._answer("POST", path, body, on_sent) as (response, deadline):
            chunks = self._chunks(response, deadline)
            if _content_type(response) == "text/event-stream":
                async with aclosing(events(chunks, self.connection.max_bytes)) as found:
                    async for event in found:
                        yield event
            else:
                yield await self._whole(response, chunks)

    async def _patiently(self, method: str, path: str, body: dict[str, Any] | None, fatal: Fatal) -> dict[str, Any]:
        patience = self.patience()
        while True:
            try:
                async with self._answer(method, path, body) as (response, deadline):
                    return await self._whole(response, self._chunks(response, deadline))
            except TransientError as error:
                if isinstance(error, fatal):
                    raise
                await asyncio.sleep(patience.wait_s(error))

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, on_sent: Callable[[], None] = lambda: None
    ) -> AsyncIterator[tuple[httpx.Response, float]]:
        """A response below status 400, open for reading, and the time of the event loop at which it must be over."""
        import httpx

        connection, loop = self.connection, asyncio.get_running_loop()
        url = connection.url(path)
        await asyncio.sleep(max(0.0, self._hold_until - loop.time()))
        async with self._slots:
            deadline = loop.time() + connection.total_timeout_s
            request = self._http.build_request(method, url, json=body)
            on_sent()
            try:
                async with asyncio.timeout_at(deadline):
                    response = await self._http.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                why = str(error) or "no answer in time"
                raise UnreachableError(f"Cannot connect to {url} ({why}). Is the server running?") from None
            except (TimeoutError, httpx.TimeoutException):
                raise StalledError(f"No answer from {url} in time. Is the server overloaded?") from None
            except httpx.TransportError as error:
                raise InterruptedResponseError(f"{url} broke the connection ({error}).") from None
            try:
                if response.status_code >= 300:
                    raise await self._failure(response, deadline)
                yield response, deadline
            finally:
                await response.aclose()

    async def _failure(self, response: httpx.Response, deadline: float) -> Exception:
        """The error that a response of status 300 or above stands for."""
        url, connection = str(response.request.url), self.connection
        if response.status_code < 400:
            return UnusableResponseError(
                f"{url} redirects to {response.headers.get('location', 'nowhere')}. Give the final URL as base URL."
            )
        body = bytearray()
        async for chunk in self._chunks(response, deadline):
            body += chunk
            if len(body) > 1 << 16:
                break
        error = failure(response.status_code, bytes(body), url, self.model, connection.api_key)
        if isinstance(error, TransientError):
            error.retry_after_s = _seconds(response.headers.get("retry-after"))
            asked = error.retry_after_s or 0.0
            if isinstance(error, BusyError) and asked <= connection.total_timeout_s:  # else nobody waits for it
                self._hold_until = max(self._hold_until, asyncio.get_running_loop().time() + asked)
        return error

    async def _chunks(self, response: httpx.Response, deadline: float) -> AsyncGenerator[bytes, None]:
        """The bytes of a response as they come."""
        import httpx

        url = response.request.url
        async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except (TimeoutError, httpx.TimeoutException):
                    raise StalledError(f"{url} stopped sending in the midst of a response.") from None
                except (httpx.TransportError, httpx.DecodingError) as error:
                    raise InterruptedResponseError(f"{url} broke off a response ({error}).") from None
                yield chunk

    async def _whole(self, response: httpx.Response, chunks: AsyncGenerator[bytes, None]) -> dict[str, Any]:
        """The JSON object that a response is."""
        url, kind = response.request.url, _content_type(response)
        if kind and not kind.endswith("json"):
            raise UnusableResponseError(
                f"{url} answered with {kind}, not JSON: no OpenAI-compatible server. Is the base URL right? It usually "
                "ends in /v1."
            )
        body = bytearray()
        async with aclosing(chunks) as parts:
            async for chunk in parts:
                body += chunk
                if len(body) > self.connection.max_bytes:
                    raise UnusableResponseError(f"{url} sent more than {self.connection.max_bytes:,} bytes.")
        return json_object(bytes(body))


def _content_type(response: httpx.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds or as a date; None for none or one that cannot be read."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
