"""The lines and events of a server-sent stream, bounded in length."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from outthink.lm.remote.errors import GarbledError, UnusableResponseError

DONE = "[DONE]"


async def lines(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a stream of bytes, without their ends. Raises UnusableResponseError for one above ``max_bytes``."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        *whole, last = rest.split(b"\n")
        for line in whole:
            if len(line) > max_bytes:
                break
            yield bytes(line).rstrip(b"\r")
        rest = last
        if len(rest) > max_bytes or any(len(line) > max_bytes for line in whole):
            raise UnusableResponseError(f"The server sent a line of more than {max_bytes:,} bytes.")
    if rest:
        yield bytes(rest).rstrip(b"\r")


async def events(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects in the ``data`` fields of a stream, up to ``[DONE]`` or its end.

    Raises GarbledError for data that is no JSON object. Comments and other fields are passed over.
    """
    async for line in lines(chunks, max_bytes):
        if not line.startswith(b"data:"):
            if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise GarbledError(f"The server sent {line[:80]!r} in an event stream.")
            continue
        data = line[5:].strip()
        if data == DONE.encode():
            return
        yield json_object(data)


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` spells. Raises GarbledError for anything else."""
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise GarbledError(f"The server sent {data[:80]!r}, which is no valid JSON.") from None
    if not isinstance(value, dict):
        raise GarbledError(f"The server sent {data[:80]!r} where an object was to come.")
    return value
