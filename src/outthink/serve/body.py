"""JSON bodies, read strictly: one encoding, one meaning, and an end to how long and how large they may be."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import params
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from outthink.serve.failures import ApiError

BODY_SECONDS = 60.0
PROBES = ("/health", "/ready")  # to which whoever watches adds what it likes
_LARGE = 64 << 10  # bytes from which a body is parsed off the event loop
_JSON_TYPE = re.compile(r"application/(?:json|[\w.-]+\+json)\s*(?:;.*)?", re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRoute(APIRoute):
    """A route whose body, where it has one, must be JSON that every parser reads alike.

    A key that stands twice, NaN and Infinity, half of a surrogate pair and any encoding but UTF-8 are refused, so that
    what a proxy in front has looked at is what is done here. Raises ApiError 400, 408, 413 or 415.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the reading of the body."""
        handle = super().get_route_handler()
        if self.path not in PROBES:
            handle = _knowing(handle, {field.alias for field in self.dependant.query_params})
        if self.body_field is None or isinstance(self.body_field.field_info, params.Form):
            return handle

        async def strict(request: Request) -> Response:
            if not _JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
                raise ApiError(415, "Send JSON, with the header 'Content-Type: application/json'.")
            if (charset := _CHARSET.search(request.headers["content-type"])) and charset[1].lower() != "utf-8":
                raise ApiError(415, f"The body must be UTF-8, and its Content-Type says {charset[1][:40]!r}.")
            if request.headers.get("content-encoding", "identity").lower() != "identity":
                raise ApiError(415, "Send the body as it is, without Content-Encoding.")
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await request.body()
            except TimeoutError as error:
                raise ApiError(408, f"The body took longer than {BODY_SECONDS:.0f} seconds to arrive.") from error
            value = await asyncio.to_thread(parse, body) if len(body) > _LARGE else parse(body)
            return await handle(_Read(request, body, value))

        return strict


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _knowing(handle: Handler, known: set[str]) -> Handler:
    """``handle`` for requests whose query has no other parameters than the ``known``. Raises ApiError 400."""

    async def knowing(request: Request) -> Response:
        for name in request.query_params:
            if name not in known:
                raise ApiError(400, f"The query parameter {name[:100]!r} is not known here.", param=name[:100])
        return await handle(request)

    return knowing


class _Read(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._read, self._value = body, value

    async def body(self) -> bytes:
        return self._read

    async def json(self) -> Any:
        return self._value


def parse(body: bytes) -> Any:
    """The value of a JSON text. Raises ApiError 400 for what is none, or would be read otherwise elsewhere."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise ApiError(400, "The body must be UTF-8, and its escapes whole characters.", code="invalid_json") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"The body is no JSON: it cannot be read at {where}.", code="invalid_json") from error
    except (ValueError, RecursionError) as error:  # digits without end, brackets without end
        raise ApiError(400, "The body has a number or a nesting beyond all measure.", code="invalid_json") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))[:100]
        raise ApiError(400, f"The key {twice!r} stands twice in one object.", code="invalid_json")
    return found


def _no_constant(name: str) -> Any:
    raise ApiError(400, f"{name} is no JSON: numbers are finite.", code="invalid_json")
