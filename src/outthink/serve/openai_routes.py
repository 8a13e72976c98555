"""The routes of the OpenAI API: models, completions and chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from outthink.serve.body import JsonRoute
from outthink.serve.chunks import ChatTeller, CompletionTeller
from outthink.serve.completions import Order, Outcome, generate, stream
from outthink.serve.delivery import EventStream, unless_gone
from outthink.serve.failures import ApiError
from outthink.serve.orders import chat_order, completion_order
from outthink.serve.schema import ChatRequest, CompletionRequest, Generating
from outthink.serve.service import Service
from outthink.serve.thinking import plan_of
from outthink.serve.thought_chat import plan_of_chat, think_chat, thought_answer, thought_events

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """The model that is served."""
    return JSONResponse({"object": "list", "data": [_card(service_of(request))]})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> JSONResponse:
    """One model, of which there is one; its name may say how it is to think."""
    service = service_of(request)
    if not name:
        raise ApiError(404, "There is nothing at this path.", code="not_found")
    plan_of(None, suffix=service.base_name(name)[1])
    return JSONResponse({**_card(service), "id": name})


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue one or several prompts."""
    service = service_of(request)
    service.check_plain_name(body.model)
    service.accept(body)
    order = await completion_order(service, tenant_of(request), body)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    return await _answer(request, order, CompletionTeller(service, body, order, {**head, "model": service.name}), body)


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a chat, by one completion or, where the request asks for it, by thinking."""
    service, tenant = service_of(request), tenant_of(request)
    plan = plan_of_chat(service, body)
    service.accept(body)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    head["model"] = service.name
    if plan is not None:
        if body.stream:
            return EventStream(thought_events(service, tenant, body, plan, head))
        found = await unless_gone(request, think_chat(service, tenant, body, plan))
        return JSONResponse(thought_answer(found, head))
    order = await chat_order(service, tenant, body)
    return await _answer(request, order, ChatTeller(service, body, order, head), body)


def _card(service: Service) -> dict[str, Any]:
    entry = {"id": service.name, "object": "model", "created": service.created, "owned_by": "outthink"}
    return {**entry, "max_model_len": service.context}


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


def tenant_of(request: Request) -> str:
    """Whose request it is: what it caches is seen by no other tenant."""
    return request.state.tenant


async def _answer(request: Request, order: Order, teller: CompletionTeller | ChatTeller, body: Generating) -> Response:
    service, tenant = service_of(request), tenant_of(request)

    async def events() -> AsyncIterator[list[dict[str, Any]]]:
        async with service.admitted(tenant):
            async for found in stream(service, tenant, order):
                yield teller.end(found) if isinstance(found, Outcome) else [teller.chunk(piece) for piece in found]

    async def work() -> Outcome:
        async with service.admitted(tenant):
            return await generate(service, tenant, order)

    if body.stream:
        return EventStream(events())
    return JSONResponse(teller.whole(await unless_gone(request, work())))
