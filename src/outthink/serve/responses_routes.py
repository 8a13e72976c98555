"""``/v1/responses``: the newer shape of a chat, without tools and without stored conversations."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from outthink.serve.body import JsonRoute
from outthink.serve.completions import Order, Outcome, generate, stream
from outthink.serve.delivery import EventStream, unless_gone
from outthink.serve.failures import ApiError
from outthink.serve.formats import Format, text_format
from outthink.serve.openai_routes import service_of, tenant_of
from outthink.serve.orders import chat_order
from outthink.serve.response_events import ResponseEvents, message_item, reasoning_item
from outthink.serve.schema import ChatRequest, Message, ResponsesRequest
from outthink.serve.service import Service
from outthink.serve.thinking import Plan, plan_of, report
from outthink.serve.thought_chat import Conclusion, think_chat, thoughts

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post("/responses")
async def responses(request: Request, body: ResponsesRequest) -> Response:
    """Answer, once or by thinking."""
    service, tenant = service_of(request), tenant_of(request)
    if body.store:
        raise ApiError(400, "Responses are not stored here: leave store out, or set it to false.", param="store")
    _, suffix = service.base_name(body.model)
    service.accept(body)
    effort = body.reasoning.effort if body.reasoning is not None else None
    plan = plan_of(body.thinking, effort, None, suffix, body.max_output_tokens)
    chat, head = _as_chat(body), _head(service, body)
    wanted = text_format(body.text.format if body.text is not None else None)
    if plan is not None:
        if body.stream:
            return EventStream(_thought_events(service, tenant, chat, plan, wanted, head))
        found = await unless_gone(request, think_chat(service, tenant, chat, plan, wanted))
        return JSONResponse(_thought(found, head))
    order = await chat_order(service, tenant, chat, wanted)
    if body.stream:
        return EventStream(_events(service, tenant, order, head))

    async def whole() -> Outcome:
        async with service.admitted(tenant):
            return await generate(service, tenant, order)

    return JSONResponse(_finished(await unless_gone(request, whole()), head))


async def _events(
    service: Service, tenant: str, order: Order, head: dict[str, Any]
) -> AsyncIterator[list[dict[str, Any]]]:
    events = ResponseEvents(head)
    async with service.admitted(tenant):
        yield [*events.begin(), *events.open_message()]
        async for found in stream(service, tenant, order):
            if isinstance(found, Outcome):
                ending = events.close_message(complete=found.choices[0].finish == "stop")
                yield [*ending, events.end(_finished(found, head, events.items))]
            else:
                yield [events.text(piece.text) for piece in found if piece.text]


async def _thought_events(
    service: Service, tenant: str, chat: ChatRequest, plan: Plan, wanted: Format | None, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    events, begun = ResponseEvents(head), False
    async with aclosing(thoughts(service, tenant, chat, plan, wanted)) as news:
        async for found in news:
            if not begun:
                for event in events.begin():
                    yield event
                begun = True
            if isinstance(found, Conclusion):
                for event in _told(events, found, head):
                    yield event


def _told(events: ResponseEvents, found: Conclusion, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    posterior = found.posterior
    if posterior.best_line is not None:
        yield from events.reasoning(posterior.best_line.text)
    yield from events.open_message()
    yield events.text(posterior.best or "")
    yield from events.close_message(complete=posterior.best is not None)
    yield events.end(_thought(found, head, events.items))


def _head(service: Service, body: ResponsesRequest) -> dict[str, Any]:
    """What is known of a response from the beginning."""
    said = body.text.format if body.text is not None else None
    form = {"type": "text"} if said is None else said.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": service.name,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "text": {"format": form},
        "metadata": body.metadata or {},
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "store": False,
        "tool_choice": "none",
        "tools": [],
        "truncation": "disabled",
        "error": None,
    }


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    """The chat that a request of this shape is."""
    messages: list[Message] = []
    if body.instructions:
        messages.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        messages.append(Message(role="user", content=body.input))
    else:
        messages += [Message(role=each.role, content=each.content) for each in body.input]
    return ChatRequest(
        messages=messages,
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_output_tokens,
        seed=body.seed,
    )


def _finished(outcome: Outcome, head: dict[str, Any], items: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    choice = outcome.choices[0]
    complete = choice.finish == "stop"
    given, made = outcome.prompt_tokens, outcome.completion_tokens
    return _response(head, items or [message_item(choice.text, complete)], complete) | {
        "usage": _usage(given, made, outcome.cached, 0)
    }


def _thought(found: Conclusion, head: dict[str, Any], items: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    posterior = found.posterior
    line, complete = posterior.best_line, posterior.best is not None
    if items is None:
        thought = [] if line is None else [reasoning_item(line.text)]
        items = [*thought, message_item(posterior.best or "", complete)]
    return _response(head, items, complete) | {"usage": _usage(*found.usage), "thinking": report(posterior)}


def _response(head: dict[str, Any], items: list[dict[str, Any]], complete: bool) -> dict[str, Any]:
    return {
        **head,
        "status": "completed" if complete else "incomplete",
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "output": items,
    }


def _usage(given: int, made: int, cached: int, reasoning: int) -> dict[str, Any]:
    """``made``: tokens of all branches, of which ``reasoning`` are not in the winning line."""
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + made,
    }
