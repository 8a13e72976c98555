"""The lines and events of a server-sent stream, bounded in length."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from outthink.lm.remote.errors import GarbledError, UnusableResponseError

DONE = b"[DONE]"
DRAIN_S = 0.5  # how long a server may take to end a response after its last event


async def lines(chunks: AsyncGenerator[bytes, None], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The lines of a stream of bytes, without their ends. Raises UnusableResponseError for one above ``max_bytes``."""
    rest = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            rest += chunk
            *whole, rest = rest.split(b"\n")
            for line in (*whole, rest):
                if len(line) > max_bytes:
                    raise UnusableResponseError(f"The server sent a line of more than {max_bytes:,} bytes.")
            for line in whole:
                yield bytes(line).rstrip(b"\r")
    if rest:
        yield bytes(rest).rstrip(b"\r")


async def events(chunks: AsyncGenerator[bytes, None], max_bytes: int) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects in the ``data`` fields of a stream, up to ``[DONE]`` or its end.

    Raises GarbledError for data that is no JSON object. Comments and other fields are passed over.
    """
    async with aclosing(lines(chunks, max_bytes)) as found:
        async for line in found:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == DONE:
                    await _drain(found)
                    return
                yield json_object(data)
            elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise GarbledError(f"The server sent {line[:80]!r} in an event stream.")


async def _drain(found: AsyncGenerator[bytes, None]) -> None:
    """Read to the end of a response that said all that it has to, so that its connection can be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in found:
                pass


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` spells. Raises GarbledError for anything else."""
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise GarbledError(f"The server sent {data[:80]!r}, which is no valid JSON.") from None
    if not isinstance(value, dict):
        raise GarbledError(f"The server sent {data[:80]!r} where an object was to come.")
    return value
