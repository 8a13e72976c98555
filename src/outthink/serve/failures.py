"""Errors as clients of the OpenAI API expect them, and never with a library's own words in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from outthink.core.errors import EngineError, OutthinkError, UserError

MAX_MESSAGE = 1000
_PATH = re.compile(r"(?<![\w.:/])~?/[\w.@+-]+(?:/[\w.@+-]+)+")
_TAG = re.compile(r"[^\w-]|^(?:str|int|float|bool|none|constrained-.*)$|(?-i:^[A-Z])", re.IGNORECASE)


@dataclass
class ApiError(Exception):
    """A refusal with its HTTP status. ``param`` names the field at fault."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer itself."""
        return JSONResponse(self.body(), self.status, dict(self.headers))


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of ``error``: messages that this project wrote, and no path of this machine in them."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        ours = error.__cause__ is None or isinstance(error.__cause__, OutthinkError)
        told = str(error) if ours else str(error).partition(": ")[0] + "."
        return ApiError(400, _PATH.sub("[a file of the server]", told)[:MAX_MESSAGE])
    if isinstance(error, EngineError):
        return ApiError(503, "The engine has stopped or refused this request; try again later.", "server_error")
    if isinstance(error, TimeoutError):
        return ApiError(504, "The request took longer than this server allows.", "server_error", code="deadline")
    return ApiError(500, "Something went wrong on the server; its log has the details.", "server_error")


_FAULTS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "json_invalid": "cannot be read",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "too_long": "must have at most {max_length:,} members",
    "too_short": "must have at least {min_length:,} members",
    "string_too_long": "must have at most {max_length:,} characters",
    "string_too_short": "must have at least {min_length:,} characters",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "unsupported": "is not supported: {why} Leave it out",
    "contradiction": "contradicts itself: {why}",
}
"""What is said of a field, by the kind of pydantic's error; what else there is, is of the wrong kind or form."""
_KINDS = {"string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false",
          "list": "a list", "dict": "an object", "model": "an object"}  # fmt: skip


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The refusal of a request that does not have the form it should, in our own words. ``errors``: pydantic's."""
    found = _nearest(errors)
    kind, facts = str(found["type"]), found.get("ctx", {})
    where = ".".join([*_path(found), *filter(None, [facts.get("field")])])[:200]
    if kind == "unsupported":  # an error of our own: see `outthink.serve.refused`
        return ApiError(400, f"{where}: {facts['why']}"[:MAX_MESSAGE], param=where)
    said = _FAULTS.get(kind, "must be " + _KINDS.get(kind.partition("_")[0], "of another form"))
    return ApiError(400, f"{where or 'The body'} {said.format_map(facts)}."[:MAX_MESSAGE], param=where or None)


def _path(error: Mapping[str, Any]) -> list[str]:
    """The field at fault, without the tags of the alternatives that it has."""
    return [str(part) for part in error["loc"][1:] if not _TAG.search(str(part))]


def _nearest(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the alternatives that the first field at fault has, the one whose kind the value is of; else the first."""
    same = [error for error in errors if _path(error) == _path(errors[0])]
    return next((error for error in same if not str(error["type"]).endswith("_type")), errors[0])
