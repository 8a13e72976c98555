"""``/v1/responses``: the newer shape of a chat, without tools and without stored conversations."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from outthink.serve.completions import Order, Outcome, generate, stream
from outthink.serve.delivery import EventStream, unless_gone
from outthink.serve.failures import ApiError
from outthink.serve.openai_routes import chat_order, service_of, tenant_of, think_chat
from outthink.serve.schema import ChatRequest, Message, ResponsesRequest
from outthink.serve.service import Service
from outthink.serve.thinking import Plan, plan_of, report

router = APIRouter(prefix="/v1")


@router.post("/responses")
async def responses(request: Request, body: ResponsesRequest) -> Response:
    """Answer, once or by thinking."""
    service, tenant = service_of(request), tenant_of(request)
    if body.store:
        raise ApiError(400, "Responses are not stored here: leave store out, or set it to false.", param="store")
    _, suffix = service.base_name(body.model)
    effort = body.reasoning.effort if body.reasoning is not None else None
    plan = plan_of(body.thinking, effort, None, suffix)
    chat = _as_chat(body)
    head = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())}
    head |= {"model": service.name, "instructions": body.instructions}
    order = await chat_order(service, chat) if plan is None else None
    if body.stream:
        if order is None:
            raise ApiError(400, "A response that thinks is answered whole: ask without stream.", param="stream")
        return EventStream(_events(service, tenant, order, head))
    return JSONResponse(await unless_gone(request, _whole(service, tenant, chat, plan, order, head)))


async def _whole(
    service: Service, tenant: str, chat: ChatRequest, plan: Plan | None, order: Order | None, head: dict[str, Any]
) -> dict[str, Any]:
    if plan is not None:
        posterior = await think_chat(service, tenant, chat, plan)
        bill, line = posterior.cost, posterior.best_line
        thought = [_reasoning(line.text)] if line is not None else []
        return {
            **_response(head, posterior.best or "", posterior.best is not None, thought),
            "usage": _usage(bill.prefilled + bill.cached, bill.decoded, bill.cached),
            "thinking": report(posterior),
        }
    assert order is not None
    async with service.admitted(tenant):
        outcome = await generate(service, tenant, order)
    return _finished(outcome, head)


async def _events(service: Service, tenant: str, order: Order, head: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    item = f"msg_{uuid.uuid4().hex}"
    yield {"type": "response.created", "response": {**head, "status": "in_progress", "output": []}}
    async with service.admitted(tenant):
        async for piece in stream(service, tenant, order):
            if isinstance(piece, Outcome):
                yield {"type": "response.completed", "response": _finished(piece, head)}
            elif piece.text:
                place = {"item_id": item, "output_index": 0, "content_index": 0}
                yield {"type": "response.output_text.delta", **place, "delta": piece.text}


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    messages = [Message(role="user", content=body.input)] if isinstance(body.input, str) else list(body.input)
    if body.instructions:
        messages.insert(0, Message(role="system", content=body.instructions))
    return ChatRequest(
        messages=messages, temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_output_tokens
    )


def _finished(outcome: Outcome, head: dict[str, Any]) -> dict[str, Any]:
    choice = outcome.choices[0]
    return {
        **_response(head, choice.text, choice.finish == "stop", []),
        "usage": _usage(outcome.prompt_tokens, outcome.completion_tokens, outcome.ledger.bill.cached),
    }


def _response(head: dict[str, Any], text: str, complete: bool, before: list[dict[str, Any]]) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": content}
    return {
        **head,
        "status": "completed" if complete else "incomplete",
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "output": [*before, {**message, "status": "completed" if complete else "incomplete"}],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
    }


def _reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{uuid.uuid4().hex}", "summary": [{"type": "summary_text", "text": text}]}


def _usage(given: int, made: int, cached: int) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
