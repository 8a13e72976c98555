"""Embeddings, responses, tokens, solves, and what operators ask: health, readiness, metrics, version."""

from __future__ import annotations

import asyncio
import base64
import struct
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from outthink.serve.body import JsonRoute
from outthink.serve.delivery import EventStream, unless_gone
from outthink.serve.embeddings import mean_pooled
from outthink.serve.failures import ApiError
from outthink.serve.jobs import Jobs
from outthink.serve.openai_routes import service_of, tenant_of
from outthink.serve.orders import prompts_of
from outthink.serve.schema import DetokenizeRequest, EmbeddingRequest, SolveRequest, TokenizeRequest
from outthink.serve.terms import OnTerms
from outthink.serve.thinking import spelled_solve

router = APIRouter(route_class=JsonRoute)
MAX_EMBEDDED = 8192  # tokens of one text, which is computed at one go and outside the engine's pages


def jobs_of(request: Request) -> Jobs:
    """The solves of the server behind a request."""
    return request.app.state.jobs


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health() -> JSONResponse:
    """That the process answers. Open to everyone."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """Whether requests are taken: 503 while the server shuts down or when its engine has stopped."""
    service = service_of(request)
    if service.gate.closing or service.model.engine.broken:
        raise ApiError(503, "Not ready.", "server_error", headers={"Retry-After": "5"})
    return JSONResponse({"status": "ready"})


@router.get("/version")
@router.head("/version", include_in_schema=False)
async def its_version() -> JSONResponse:
    """The version of the server."""
    return JSONResponse({"version": version("outthink")})


@router.get("/metrics")
def metrics(request: Request) -> PlainTextResponse:
    """Prometheus metrics."""
    text = service_of(request).metrics.text().decode()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingRequest) -> JSONResponse:
    """The mean of the last hidden states over each text, of Euclidean length 1."""
    service = service_of(request)
    service.check_plain_name(body.model)
    service.accept(OnTerms())  # a row of a batch comes in the context of the row before it
    prompts = await prompts_of(service, body.input)
    service.check_size(prompts, 1, 0)
    if (longest := max(map(len, prompts))) > MAX_EMBEDDED:
        raise ApiError(400, f"A text of {longest:,} tokens: at most {MAX_EMBEDDED:,} are embedded.", param="input")

    async def work() -> list[list[float]]:
        async with service.admitted(tenant_of(request)):
            return [await asyncio.to_thread(mean_pooled, service.model.loaded, prompt) for prompt in prompts]

    vectors = await unless_gone(request, work())
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, prompts))
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "model": service.name,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
    )


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> JSONResponse:
    """The token ids of a text, or of messages through the chat template."""
    service = service_of(request)
    service.check_plain_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "Give either prompt or messages.", param="prompt")
    if body.prompt is not None:
        tokens = await service.encode(body.prompt, body.add_special_tokens is not False)
    else:
        tokens = await service.encode_chat([message.plain() for message in body.messages or ()])
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": service.context})


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> JSONResponse:
    """The text of token ids."""
    service = service_of(request)
    service.check_plain_name(body.model)
    tokenizer = service.model.loaded.tokenizer
    if any(token >= tokenizer.vocab_size for token in body.tokens):
        raise ApiError(400, f"Token ids must be below {tokenizer.vocab_size:,}.", param="tokens")
    text = await asyncio.to_thread(tokenizer.decode, body.tokens, False)
    return JSONResponse({"prompt": text})


# ---- solves --------------------------------------------------------------------------------------------------------


@router.post("/v1/solves")
async def create_solve(request: Request, body: SolveRequest) -> JSONResponse:
    """Begin to think about a problem; it goes on whether or not the client stays."""
    body = spelled_solve(service_of(request), body)
    jobs = jobs_of(request)
    return JSONResponse(await jobs.shown(await jobs.submit(tenant_of(request), body)), 202)


@router.get("/v1/solves")
async def list_solves(request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> JSONResponse:
    """The newest solves of this client."""
    jobs = jobs_of(request)
    found = await jobs.recent(tenant_of(request), limit)
    return JSONResponse({"object": "list", "data": [await jobs.shown(job) for job in found]})


@router.get("/v1/solves/{job_id}")
async def get_solve(request: Request, job_id: str, tree: bool = False) -> Response:
    """Where a solve stands, the best answer so far, and at the end the posterior; ``tree``: with the whole tree."""
    jobs = jobs_of(request)
    job = await jobs.get(job_id, tenant_of(request))
    return Response(await jobs.written(job, tree), media_type="application/json")


@router.get("/v1/solves/{job_id}/events")
async def follow_solve(request: Request, job_id: str) -> EventStream:
    """The solve and its tree a few times a second, until it is over."""
    jobs = jobs_of(request)
    return EventStream(jobs.follow(job_id, tenant_of(request), jobs.written))


@router.post("/v1/solves/{job_id}/cancel")
async def cancel_solve(request: Request, job_id: str) -> JSONResponse:
    """Stop a solve; its pages are free within a second. One that is over stays as it is."""
    jobs = jobs_of(request)
    return JSONResponse(await jobs.shown(await jobs.cancel(job_id, tenant_of(request))))


@router.delete("/v1/solves/{job_id}")
async def delete_solve(request: Request, job_id: str) -> JSONResponse:
    """Stop a solve, as cancelling does; of one that is over, forget the problem, the answer and the tree."""
    return JSONResponse(await jobs_of(request).delete(job_id, tenant_of(request)))


def _encoded(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
