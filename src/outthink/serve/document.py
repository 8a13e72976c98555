"""The OpenAPI document: of every route what it takes, what it answers, and that errors have one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from outthink.serve import answers as a

_REF = "#/components/schemas/"
Shape = type[BaseModel] | None


@dataclass(frozen=True)
class Said:
    """What a route answers: JSON of the ``shape``, any object where that is None, or another ``media`` type.

    ``streams``: with ``"stream": true`` it answers server-sent events instead.
    """

    shape: Shape = None
    status: int = 200
    media: str = "application/json"
    streams: bool = False


_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""A server-sent event; its data is JSON, or [DONE] at the end."""
_EVENTS = Said(media="text/event-stream")
ANSWERS: Mapping[tuple[str, str], Said] = {
    ("GET", "/health"): Said(a.StatusAnswer),
    ("GET", "/ready"): Said(a.StatusAnswer),
    ("GET", "/version"): Said(a.VersionAnswer),
    ("GET", "/metrics"): Said(media="text/plain"),
    ("GET", "/v1/models"): Said(a.ModelList),
    ("GET", "/v1/models/{name}"): Said(a.ModelCard),
    ("POST", "/v1/completions"): Said(a.Completion, streams=True),
    ("POST", "/v1/chat/completions"): Said(a.ChatCompletion, streams=True),
    ("POST", "/v1/responses"): Said(a.ResponseAnswer, streams=True),
    ("POST", "/v1/embeddings"): Said(a.Embeddings),
    ("POST", "/tokenize"): Said(a.Tokens),
    ("POST", "/detokenize"): Said(a.PromptText),
    ("POST", "/v1/solves"): Said(a.SolveAnswer, 202),
    ("GET", "/v1/solves"): Said(a.SolveList),
    ("GET", "/v1/solves/{job_id}"): Said(a.SolveAnswer),
    ("POST", "/v1/solves/{job_id}/cancel"): Said(a.SolveAnswer),
    ("DELETE", "/v1/solves/{job_id}"): Said(a.SolveAnswer),
    ("GET", "/v1/solves/{job_id}/events"): _EVENTS,
    ("GET", "/v1/solves/{job_id}/tree.html"): Said(media="text/html"),
    ("POST", "/v1/files"): Said(a.FileAnswer),
    ("GET", "/v1/files"): Said(a.FilePage),
    ("GET", "/v1/files/{file_id}"): Said(a.FileAnswer),
    ("GET", "/v1/files/{file_id}/content"): Said(media="application/octet-stream"),
    ("DELETE", "/v1/files/{file_id}"): Said(a.DeletedFile),
    ("POST", "/v1/batches"): Said(a.BatchAnswer),
    ("GET", "/v1/batches"): Said(a.BatchPage),
    ("GET", "/v1/batches/{batch_id}"): Said(a.BatchAnswer),
    ("POST", "/v1/batches/{batch_id}/cancel"): Said(a.BatchAnswer),
    ("GET", "/api/methods"): Said(),
    ("GET", "/api/options"): Said(),
    ("GET", "/api/problem"): Said(a.ProblemAnswer),
    ("GET", "/api/status"): Said(),
    ("GET", "/api/solves/{job_id}/view"): _EVENTS,
}
"""By method and path. A test holds it against the routes, and another against what they do answer."""


def document(app: FastAPI, keys: bool) -> dict[str, Any]:
    """The OpenAPI document of ``app``; ``keys``: whether requests need one."""
    found = get_openapi(title=app.title, version=version("outthink"), routes=app.routes, description=__doc__)
    shapes = {said.shape for said in ANSWERS.values() if said.shape is not None} | {a.ErrorAnswer}
    ordered = sorted(shapes, key=lambda shape: shape.__name__)
    _, made = models_json_schema([(shape, "serialization") for shape in ordered], ref_template=_REF + "{model}")
    components = found.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **made["$defs"]}
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
        components["schemas"].pop(unused, None)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            operation["responses"] = _responses(ANSWERS.get((method.upper(), path), Said()))
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
        found["paths"]["/health"]["get"]["security"] = []
    return found


def _responses(said: Said) -> dict[str, Any]:
    if said.media == "text/event-stream":
        shape: dict[str, Any] = _EVENT
    elif said.media != "application/json":
        shape = {"type": "string"}
    else:
        shape = {"type": "object"} if said.shape is None else {"$ref": _REF + said.shape.__name__}
    content: dict[str, Any] = {said.media: {"schema": shape}}
    if said.streams:
        content["text/event-stream"] = {"schema": _EVENT}
    error = {"application/json": {"schema": {"$ref": _REF + a.ErrorAnswer.__name__}}}
    return {
        str(said.status): {"description": "The answer.", "content": content},
        "4XX": {"description": "The request was refused; the message says why.", "content": error},
        "5XX": {"description": "The server could not answer.", "content": error},
    }
