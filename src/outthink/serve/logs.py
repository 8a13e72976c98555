"""What the server writes down: a line an event, as text or JSON, each with the id of the request that it belongs to."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
FORMATS = ("text", "json")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def set_up_logging(form: str = "text", log_prompts: bool = False, stream: TextIO | None = None) -> logging.Handler:
    """Send every logger's lines to ``stream`` (by default standard error) in ``form``, one of `FORMATS`.

    ``log_prompts``: messages of exceptions are written too, which may quote what a client sent.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(log_prompts) if form == "json" else TextLines(log_prompts))
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.INFO
    for quiet in ("httpx", "uvicorn"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is not about a failure that we have told of ourselves, with the request's id."""
    return not record.getMessage().startswith("Exception in ASGI application")


class _Lines(logging.Formatter):
    def __init__(self, log_prompts: bool = False) -> None:
        super().__init__()
        self._log_prompts = log_prompts

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a record says, in order."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None) or REQUEST_ID.get()) is not None:
            found["request_id"] = request_id
        found |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in found}
        if record.exc_info and record.exc_info[1] is not None:
            found["exception"] = _told(record.exc_info[1], self._log_prompts)
        return found


class JsonLines(_Lines):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.facts(record), default=str)


class TextLines(_Lines):
    """Time, level, message and the rest as ``name=value``; what could begin another line, or steer a terminal, is
    escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        facts = self.facts(record)
        head = f"{facts.pop('time')} {facts.pop('level').upper()} {facts.pop('message')}"
        del facts["logger"]
        return "".join(_escaped(part) for part in [head, *(f" {name}={value}" for name, value in facts.items())])


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _told(error: BaseException, messages: bool) -> list[str]:
    """Where an exception came from, innermost last; its ``messages`` only where they are asked for."""
    kind = type(error).__name__
    frames = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    cause = error.__cause__
    before = [] if cause is None else [*_told(cause, messages), "which led to"]
    return [*before, *frames, f"{kind}: {error}" if messages else kind]
