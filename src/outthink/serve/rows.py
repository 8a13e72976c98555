"""The rows of a batch: JSON lines, each a request to one of our routes, and what became of each."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field, StringConstraints, ValidationError
from starlette.types import Message, Scope

from outthink.core.errors import OutthinkError
from outthink.serve.body import parse
from outthink.serve.failures import ApiError, as_api_error, invalid
from outthink.serve.jobs import check_solve, plan_of_solve, solved
from outthink.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, SolveRequest, Strict
from outthink.serve.service import Service
from outthink.serve.thinking import spelled_solve
from outthink.serve.thought_chat import plan_of_chat

BODIES = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/solves": SolveRequest,
}
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/solves"]
Span = tuple[int, int]
"""Of bytes: the first, and the one behind the last."""
MAX_ROWS = 50_000
TOLD_FAULTS = 100
ATTEMPTS = 8
PRIORITY = 2
"""Of a row that does not say: a quarter of the share of those who wait for an answer."""
LONGEST_WAIT = 10.0
"""Seconds between two attempts at a row for which there was no room."""


class RowLine(Strict):
    """One line of a batch's input."""

    custom_id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    method: Literal["POST"] = "POST"
    url: Endpoint
    body: Annotated[dict[str, Any], Field(max_length=256)]


@dataclass(frozen=True)
class Row:
    """A request of a batch; ``number`` counts from 0. ``id`` is made of what it says: an equal row has an equal one."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]
    id: str


@dataclass(frozen=True)
class Fault:
    """Why a line is no row. ``line`` counts from 1."""

    line: int
    message: str
    param: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the batch object has it."""
        return {"code": "invalid_line", "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True)
class Result:
    """What became of a row: a line of the output, or where it ``failed`` of the errors. No line break at its end."""

    number: int
    failed: bool
    line: str


def read_rows(content: bytes, endpoint: str | None = None) -> tuple[list[Row], list[Fault]]:
    """The rows in ``content``, and what is wrong with its lines, at most `TOLD_FAULTS` of them.

    Empty lines are passed over. ``endpoint``: the one that all rows must be for.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    for _, found in scan(content, endpoint):
        if isinstance(found, Row):
            rows.append(found)
        else:
            faults.append(found)
    return rows, faults


def scan(content: bytes, endpoint: str | None = None) -> Iterator[tuple[Span, Row | Fault]]:
    """What `read_rows` finds, one after the other, and where its line is."""
    num_rows, num_faults = 0, 0
    seen: set[bytes] = set()
    for number, span in enumerate(_lines(content), 1):
        line = content[slice(*span)]
        if not line.strip():
            continue
        if num_rows >= MAX_ROWS:
            yield span, Fault(number, f"A batch has at most {MAX_ROWS:,} rows; make several.")
            return
        try:
            row = read_row(line, num_rows)
            if endpoint is not None and row.url != endpoint:
                raise ApiError(400, f"url is {row.url}, and the batch is for {endpoint}.", param="url")
            name = hashlib.blake2b(row.custom_id.encode(), digest_size=16).digest()
            if name in seen:
                raise ApiError(400, f"custom_id {row.custom_id!r} stands on an earlier line.", param="custom_id")
            seen.add(name)
            num_rows += 1
            yield span, row
        except ApiError as error:
            num_faults += 1
            yield span, Fault(number, error.message.replace("The body", "The line"), error.param)
            if num_faults == TOLD_FAULTS:
                return
    if not num_rows and not num_faults:
        yield (0, 0), Fault(1, "There is no row: write one JSON object a line.")


def _lines(content: bytes) -> Iterator[Span]:
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        yield start, end
        start = end + 1
    yield start, len(content)


def check_rows(service: Service, rows: Iterable[Row]) -> list[Result]:
    """The rows whose bodies are refused, with the answer that each gets. Computes nothing."""
    return [refused for row in rows if (refused := check_row(service, row)) is not None]


def check_row(service: Service, row: Row) -> Result | None:
    """What a row whose body is refused gets for an answer. Computes nothing."""
    try:
        _check(service, row)
    except (ApiError, OutthinkError) as error:
        return _answered(row, as_api_error(error))
    return None


async def run_row(app: FastAPI, service: Service, tenant: str, row: Row) -> Result | None:
    """Do what a row asks, as if its request had come by itself; where the queue is full, again a little later, and
    where the engine could not, `ATTEMPTS` times more.

    Returns None where the server or its engine stops: the row is as good as untouched.
    """
    attempt = 0
    while True:
        asked = row.body if row.url == "/v1/embeddings" else {"priority": PRIORITY, **row.body}
        if row.url == "/v1/solves":
            answer = _solve(service, tenant, asked)
        else:
            answer = _post(app, row.url, json.dumps(asked).encode(), tenant, row.id)
        status, body = await asyncio.create_task(answer)  # whose context ends with it: terms, moments, spans
        if status == 503 and (service.gate.closing or service.model.engine.broken):
            return None
        if status != 429 and (status != 503 or attempt >= ATTEMPTS):
            return _result(row, status, json.loads(body))
        await asyncio.sleep(min(LONGEST_WAIT, 0.25 * 2 ** min(attempt, 8)))
        attempt += 1


def undone(row: Row, code: str, message: str) -> Result:
    """The error of a row that was never answered."""
    error = {"code": code, "message": message}
    line = {"id": row.id, "custom_id": row.custom_id, "response": None, "error": error}
    return Result(row.number, True, json.dumps(line))


def read_row(line: bytes, number: int) -> Row:
    """The row of a line. Raises ApiError."""
    value = parse(line)
    try:
        found = RowLine.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from error
    said = json.dumps([found.custom_id, found.url, found.body], sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    return Row(number, found.custom_id, found.url, found.body, f"batch_req_{digest}")


def _invalid(error: ValidationError) -> ApiError:
    return invalid([{**found, "loc": ("body", *found["loc"])} for found in error.errors(include_url=False)])


def _check(service: Service, row: Row) -> None:
    try:
        request = BODIES[row.url].model_validate(row.body)
    except ValidationError as error:
        raise _invalid(error) from error
    if getattr(request, "stream", False):
        raise ApiError(400, "A row is answered whole: leave stream out.", param="stream")
    if isinstance(request, ChatRequest):
        plan_of_chat(service, request)
    elif isinstance(request, SolveRequest):
        plan_of_solve(spelled_solve(service, request))
    else:
        service.check_plain_name(request.model)


def _answered(row: Row, error: ApiError) -> Result:
    return _result(row, error.status, error.body())


def _result(row: Row, status: int, body: dict[str, Any]) -> Result:
    response = {"status_code": status, "request_id": row.id, "body": body}
    line = {"id": row.id, "custom_id": row.custom_id, "response": response, "error": None}
    return Result(row.number, status >= 300, json.dumps(line))


async def _solve(service: Service, tenant: str, asked: dict[str, Any]) -> tuple[int, bytes]:
    """A solve that is answered when it is over, without a job of its own: the batch is what outlasts the process."""
    try:
        request = spelled_solve(service, SolveRequest.model_validate(asked))
        asked = request.model_dump(mode="json", exclude_unset=True)
        await check_solve(service, request)
        async with service.admitted(tenant):
            status, result = await solved(service, tenant, asked)
    except (ApiError, OutthinkError, TimeoutError) as error:
        failure = as_api_error(error)
        return failure.status, json.dumps(failure.body()).encode()
    if status == "failed":
        return _status(service, result), json.dumps({"error": result}).encode()
    result.pop("tree", None)
    answer = {"id": f"solve-{secrets.token_hex(16)}", "object": "solve", "status": status}
    return 200, json.dumps({**answer, "problem": asked["problem"], "posterior": result}).encode()


def _status(service: Service, error: dict[str, Any]) -> int:
    if error["type"] != "server_error":
        return 400
    return 504 if error["code"] == "deadline" else 503 if service.model.engine.broken else 500


async def _post(app: FastAPI, path: str, body: bytes, tenant: str, request_id: str) -> tuple[int, bytes]:
    """What the route at ``path`` answers to ``body``: its status and the body of the answer."""
    unread, status, pieces = [body], 500, []

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # nobody disconnects
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
        "state": {"tenant": tenant, "request_id": request_id},
    }
    call = asyncio.create_task(app(scope, receive, send))
    try:
        await asyncio.wait((call,))  # an error that the routes did not expect is logged, answered, and raised again
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    return status, b"".join(pieces)
