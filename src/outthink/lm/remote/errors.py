"""What can go wrong between us and a server, each with what to do about it. No message ever holds the key."""

from __future__ import annotations

import json
from typing import Any

from outthink.core.errors import OutthinkError, UserError


class RemoteError(OutthinkError):
    """A server did not do what was asked of it."""


class TransientError(RemoteError):
    """The same request may well succeed when it is sent again; it is, a bounded number of times.

    ``retry_after_s``: how long the server asked us to wait (None: it did not say).
    """

    retry_after_s: float | None = None


class UnreachableError(TransientError):
    """No connection could be made."""


class BusyError(TransientError):
    """The server takes no more requests for now (429)."""


class ServerFailedError(TransientError):
    """The server failed on its own (5xx, or an error in the midst of a response)."""


class StalledError(TransientError):
    """The server went silent, or took longer than a request may."""


class InterruptedResponseError(TransientError):
    """The connection was lost, or the response ended, before the text did."""


class GarbledError(TransientError):
    """A response that is no valid JSON or event stream."""


class UnusableResponseError(RemoteError):
    """A well-formed response without what the protocol promises, or none of an OpenAI-compatible server at all."""


class RequestRefusedError(UserError):
    """The server will not serve such a request (4xx); the message holds its reason."""


class KeyRefusedError(RequestRefusedError):
    """The key is missing, wrong, or not enough (401, 403)."""


class NoSuchRouteError(RequestRefusedError):
    """The server has no such route (404, 405, 501)."""


class UnknownModelError(RequestRefusedError):
    """The server serves no model of that name."""


def failure(status: int, body: bytes, url: str, model: str | None, secret: str | None) -> OutthinkError:
    """The error that a response with ``status`` of 400 or above stands for. ``secret`` is struck out of its message."""
    reason, code = _reason(body)
    if secret:
        reason = reason.replace(secret, "***")
    said = f": {reason.rstrip('.')}" if reason else ""
    if status in (401, 403):
        return KeyRefusedError(
            f"{url} refused the key (HTTP {status}){said}. Name the environment variable that holds a valid one with "
            "--api-key-env, or give api_key."
        )
    if status in (404, 405, 501):
        if code == "model_not_found" or (model and model in reason):
            return UnknownModelError(f"{url} serves no model {model!r}{said}. Name one that it serves with --model.")
        return NoSuchRouteError(
            f"{url} does not exist on this server (HTTP {status}){said}. Is the base URL right? It usually ends in /v1."
        )
    if status == 429:
        return BusyError(f"{url} takes no more requests (HTTP 429){said}. Wait, or lower the concurrency.")
    if status in (408, 425) or status >= 500:
        return ServerFailedError(f"{url} failed (HTTP {status}){said}. Look at the server's log.")
    return RequestRefusedError(f"{url} refused the request (HTTP {status}){said}.")


def _reason(body: bytes) -> tuple[str, str]:
    """The message and the code in the body of an error response, as far as it has any."""
    try:
        content: Any = json.loads(body)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return body[:200].decode(errors="replace").strip(), ""
    return error_message(content)


def error_message(content: Any) -> tuple[str, str]:
    """Message and code of an error object, in any of the usual shapes."""
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return str(error)[:500], ""
    message = error.get("message", error.get("detail", ""))
    return str(message)[:500], str(error.get("code", ""))
