"""The first thing that a request meets: identity, size and shape, on the raw request, before anything parses it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from outthink.serve.config import ServeConfig
from outthink.serve.failures import ApiError
from outthink.serve.watch import Watch

OPEN_PATH = b"/health"
FILES_PATH = "/v1/files"
MAX_HEADERS = 16 << 10
_HOST = re.compile(rb"(localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_REQUEST_ID_CHARS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass
class Guard:
    """ASGI middleware. Puts ``request_id`` and ``tenant`` into the scope's state; refuses what may not pass.

    Where keys are set, every path needs one but exactly ``/health``, the page too, at which a browser asks for it
    (Basic: the key is the password); keys are compared in constant time. A tenant is a keyed hash of its key, so that
    no key is held in a cache's or a table's name.
    """

    app: FastAPI
    config: ServeConfig
    watch: Watch
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    held: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        with self.watch.request(scope, request_id) as seen:

            async def respond(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.status = message["status"]
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *_SAFE]
                await send(message)

            try:
                state["tenant"] = self.admit(scope, headers)
                keep = seen.keep if self.watch.log_prompts else None
                body = _Limited(receive, self, self._limit(scope), time.monotonic() + self.config.deadline, keep)
                try:
                    await self.app(scope, body, respond)
                finally:
                    self.held -= body.seen
            except ApiError as error:
                await error.response()(scope, receive, respond)

    def admit(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> str:
        """The tenant of a request, "" where there are no keys. Raises ApiError."""
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
            raise ApiError(431, f"The headers must be at most {MAX_HEADERS:,} bytes together.", code="too_large")
        raw = scope.get("raw_path") or scope["path"].encode()
        if not raw.startswith(b"/") or b"//" in raw or b"%" in raw or b"\\" in raw or b"/." in raw:
            raise ApiError(404, "There is nothing at this path.", code="not_found")
        self._check_origin(headers)
        declared = _one(headers, b"content-length")
        if declared is not None and any(name.lower() == b"transfer-encoding" for name, _ in headers):
            # Whoever is in between may have read another end of this body: what follows it may be no request.
            raise ApiError(
                400, "A body has either Content-Length or Transfer-Encoding.", headers={"Connection": "close"}
            )
        limit = self._limit(scope)
        if declared is not None and (not declared.isdigit() or len(declared) > 15 or int(declared) > limit):
            raise ApiError(413, f"The body must be at most {limit:,} bytes.", code="too_large")
        if not self.config.api_keys:
            return ""
        sent = self._digest(_key(_one(headers, b"authorization") or b""))
        # Every key is compared, and all at one length: the time tells neither which came close nor how long it is.
        matches = [hmac.compare_digest(sent, self._digest(known.encode())) for known in self.config.api_keys]
        if any(matches):
            return sent.hex()[:32]
        if raw == OPEN_PATH:
            return ""
        raise ApiError(
            401,
            "This server needs an API key: send the header 'Authorization: Bearer KEY'.",
            "authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Basic realm="outthink"'},  # at which a browser asks for the key
        )

    def _limit(self, scope: Scope) -> int:
        """The most bytes that the body may have: of an upload, a file and what a form puts around it."""
        return self.config.max_file + (16 << 10) if scope["path"] == FILES_PATH else self.config.max_body

    def _check_origin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse pages of other sites, which a browser on this machine would otherwise let reach a loopback port."""
        host = _one(headers, b"host") or b""
        if not self.config.api_keys and self.config.loopback and not _is_local(host):
            raise ApiError(421, "This server answers to the names of this machine only.", code="wrong_host")
        origin = _one(headers, b"origin")
        foreign = origin is not None and origin.partition(b"://")[2] != host
        # A link may lead here from anywhere; what a page of another site fetches, frames or embeds does not.
        site, mode = _one(headers, b"sec-fetch-site"), _one(headers, b"sec-fetch-mode")
        if foreign or (site in (b"cross-site", b"same-site") and mode != b"navigate"):
            raise ApiError(403, "Requests from pages of other sites are refused.", code="cross_origin")

    def _digest(self, key: bytes) -> bytes:
        return hmac.new(self.secret, key, hashlib.blake2b).digest()


@dataclass
class _Limited:
    """``receive`` that refuses to hand on more than ``limit`` bytes, or a body later than ``until`` (monotonic); or any
    body where those of all requests together are more than `ServeConfig.max_held` bytes.
    """

    receive: Receive
    guard: Guard
    limit: int
    until: float
    keep: Callable[[bytes], None] | None = None
    seen: int = 0
    whole: bool = False

    async def __call__(self) -> Message:
        if self.whole:  # what is awaited now is that the client leaves
            return await self.receive()
        try:
            async with asyncio.timeout(self.until - time.monotonic()):
                message = await self.receive()
        except TimeoutError as error:
            raise ApiError(408, "The body took too long to arrive.", code="deadline") from error
        self.whole = not message.get("more_body", False)
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.seen += size
            self.guard.held += size
            if self.seen > self.limit:
                raise ApiError(413, f"The body must be at most {self.limit:,} bytes.", code="too_large")
            if self.guard.held > self.guard.config.max_held:
                raise ApiError(
                    503,
                    "Too much is being sent at once; try again later.",
                    "server_error",
                    headers={"Retry-After": "1"},
                )
            if self.keep is not None:
                self.keep(message.get("body", b""))
        return message


_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; "
        b"form-action 'self'; object-src 'none'",
    ),
)


def _is_local(host: bytes) -> bool:
    """Whether a Host header names this machine itself: no name that a stranger's DNS could point at it."""
    return _HOST.fullmatch(host) is not None


def _one(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a header; of several with one name, which nobody sends in good faith, none."""
    values = [value for key, value in headers if key.lower() == name]
    if len(values) > 1:
        raise ApiError(400, f"The header {name.decode()} was sent {len(values)} times.")
    return values[0] if values else None


def _key(authorization: bytes) -> bytes:
    """The key that was sent: as a bearer token, or as the password by which browsers send what they asked for."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    given = next((value for key, value in headers if key.lower() == b"x-request-id"), b"")
    if 0 < len(given) <= 64 and _REQUEST_ID_CHARS.issuperset(given):
        return given.decode()
    return secrets.token_hex(12)
