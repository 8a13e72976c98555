"""Errors as clients of the OpenAI API expect them, and never with a library's own words in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi.responses import JSONResponse

from outthink.core.errors import EngineError, OutthinkError, UserError


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
    """What a client is told of ``error``. Only messages that this project wrote are passed on."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        ours = error.__cause__ is None or isinstance(error.__cause__, OutthinkError)
        return ApiError(400, str(error) if ours else str(error).partition(": ")[0] + ".")
    if isinstance(error, EngineError):
        return ApiError(503, "The engine has stopped or refused this request; try again later.", "server_error")
    if isinstance(error, TimeoutError):
        return ApiError(504, "The request took longer than this server allows.", "server_error", code="deadline")
    return ApiError(500, "Something went wrong on the server; its log has the details.", "server_error")
