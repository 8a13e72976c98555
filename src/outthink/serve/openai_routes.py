"""The routes of the OpenAI API: models, completions and chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from outthink.core.posterior import Posterior
from outthink.serve.completions import Choice, Order, Outcome, generate, stream
from outthink.serve.delivery import EventStream, unless_gone
from outthink.serve.failures import ApiError
from outthink.serve.logprobs import chat_logprobs, completion_logprobs
from outthink.serve.schema import ChatRequest, CompletionRequest
from outthink.serve.service import Service, sampling_of, until_of, usage
from outthink.serve.thinking import Plan, deliberate, plan_of, progress, report

router = APIRouter(prefix="/v1")


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """The model that is served."""
    service = service_of(request)
    entry = {"id": service.name, "object": "model", "created": service.created, "owned_by": "outthink"}
    return JSONResponse({"object": "list", "data": [{**entry, "max_model_len": service.context}]})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> JSONResponse:
    """One model, of which there is one."""
    service = service_of(request)
    service.base_name(name)
    return JSONResponse({"id": service.name, "object": "model", "created": service.created, "owned_by": "outthink"})


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue one or several prompts."""
    service, tenant = service_of(request), tenant_of(request)
    _, suffix = service.base_name(body.model)
    if suffix is not None:
        raise ApiError(400, "Thinking is for chat and solves; completions only continue a prompt.", param="model")
    prompts = await prompts_of(service, body.prompt)
    order = _completion_order(service, body, prompts)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    head["model"] = service.name
    if body.stream:
        return EventStream(_completion_events(service, tenant, body, order, head))

    async def work() -> Outcome:
        async with service.admitted(tenant):
            return await generate(service, tenant, order)

    outcome = await unless_gone(request, work())
    choices = [_completion_choice(service, body, order, choice) for choice in outcome.choices]
    return JSONResponse({**head, "choices": choices, "usage": _usage(outcome)})


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a chat, by one completion or, where the request asks for it, by thinking."""
    service, tenant = service_of(request), tenant_of(request)
    _, suffix = service.base_name(body.model)
    plan = plan_of(body.thinking, body.reasoning_effort, body.thinking_token_budget, suffix)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if plan is not None:
        _refuse_beside_thinking(body)
        if body.stream:
            return EventStream(_thought_events(service, tenant, body, plan, head))
        posterior = await unless_gone(request, think_chat(service, tenant, body, plan))
        return JSONResponse(_thought_answer(posterior, head))
    order = await chat_order(service, body)
    if body.stream:
        return EventStream(_chat_events(service, tenant, body, order, head))

    async def work() -> Outcome:
        async with service.admitted(tenant):
            return await generate(service, tenant, order)

    outcome = await unless_gone(request, work())
    choices = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": chat_logprobs(service.model.loaded.tokenizer, choice) if body.logprobs else None,
            "finish_reason": choice.finish,
        }
        for choice in outcome.choices
    ]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": _usage(outcome)})


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


def tenant_of(request: Request) -> str:
    """Whose request it is: what it caches is seen by no other tenant."""
    return request.state.tenant


# ---- completions ---------------------------------------------------------------------------------------------------


async def prompts_of(service: Service, prompt: str | Sequence[Any]) -> list[list[int]]:
    """One prompt or several, each a text or token ids, as token ids."""
    if isinstance(prompt, str):
        return [await service.encode(prompt)]
    if prompt and isinstance(prompt[0], str):
        return [await service.encode(text) for text in prompt]
    if prompt and isinstance(prompt[0], int):
        return [list(prompt)]
    return [list(tokens) for tokens in prompt]


def _completion_order(service: Service, body: CompletionRequest, prompts: list[list[int]]) -> Order:
    if body.stream and (body.logprobs is not None or body.echo):
        raise ApiError(400, "logprobs and echo are answered whole: ask without stream.", param="stream")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens must be at least 1, unless the prompt is echoed.", param="max_tokens")
    n = 0 if body.max_tokens == 0 else body.n
    total = service.check_size(prompts, n, body.max_tokens)
    return Order(
        prompts,
        n,
        sampling_of(body, body.logprobs or 0),
        until_of(body, body.max_tokens or None),
        total,
        body.include_stop_str_in_output,
        body.echo and body.logprobs is not None,
    )


def _completion_choice(service: Service, body: CompletionRequest, order: Order, choice: Choice) -> dict[str, Any]:
    tokenizer, prompt = service.model.loaded.tokenizer, order.prompts[choice.prompt]
    echoed = tokenizer.decode(prompt, skip_special_tokens=False) if body.echo else ""
    found = None
    if body.logprobs is not None:
        found = completion_logprobs(tokenizer, choice, prompt if body.echo else ())
    return {
        "index": choice.prompt * max(1, order.n) + choice.index,
        "text": echoed + choice.text,
        "logprobs": found,
        "finish_reason": choice.finish,
    }


async def _completion_events(
    service: Service, tenant: str, body: CompletionRequest, order: Order, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    async with service.admitted(tenant):
        async for piece in stream(service, tenant, order):
            if isinstance(piece, Outcome):
                if body.stream_options and body.stream_options.include_usage:
                    yield {**head, "choices": [], "usage": _usage(piece)}
                return
            yield {
                **head,
                "choices": [
                    {
                        "index": piece.prompt * order.n + piece.index,
                        "text": piece.text,
                        "logprobs": None,
                        "finish_reason": None if piece.choice is None else piece.choice.finish,
                    }
                ],
            }


def _usage(outcome: Outcome) -> dict[str, Any]:
    return usage(outcome.prompt_tokens, outcome.completion_tokens, outcome.ledger.bill.cached)


# ---- chat ----------------------------------------------------------------------------------------------------------


async def chat_order(service: Service, body: ChatRequest) -> Order:
    """What a chat asks to be generated. Raises ApiError for options that contradict each other or do not fit."""
    messages, continued = [message.plain() for message in body.messages], ""
    if body.continue_final_message:
        if body.add_generation_prompt and "add_generation_prompt" in body.model_fields_set:
            raise ApiError(400, "continue_final_message excludes add_generation_prompt: true.")
        if body.messages[-1].role != "assistant":
            raise ApiError(400, "continue_final_message needs a final message of the assistant.", param="messages")
        continued = messages.pop()["content"]
    prompt = await service.encode_chat(messages, body.add_generation_prompt or body.continue_final_message, continued)
    max_tokens = body.max_completion_tokens or body.max_tokens
    if max_tokens is None:  # all that the context and this server's limit leave
        share = (service.config.max_tokens - len(prompt)) // body.n
        max_tokens = max(1, min(service.context - len(prompt), share))
    total = service.check_size([prompt], body.n, max_tokens)
    sampling = sampling_of(body, body.top_logprobs or 0)
    return Order([prompt], body.n, sampling, until_of(body, max_tokens), total, body.include_stop_str_in_output)


async def _chat_events(
    service: Service, tenant: str, body: ChatRequest, order: Order, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    if body.logprobs:
        raise ApiError(400, "logprobs are answered whole: ask without stream.", param="stream")
    head = {**head, "object": "chat.completion.chunk"}
    begun = set()
    async with service.admitted(tenant):
        async for piece in stream(service, tenant, order):
            if isinstance(piece, Outcome):
                if body.stream_options and body.stream_options.include_usage:
                    yield {**head, "choices": [], "usage": _usage(piece)}
                return
            delta: dict[str, Any] = {"content": piece.text} if piece.text or piece.index not in begun else {}
            if piece.index not in begun:
                begun.add(piece.index)
                delta["role"] = "assistant"
            finish = None if piece.choice is None else piece.choice.finish
            yield {**head, "choices": [{"index": piece.index, "delta": delta, "finish_reason": finish}]}


# ---- chat that thinks ----------------------------------------------------------------------------------------------


def _refuse_beside_thinking(body: ChatRequest) -> None:
    """What has no meaning for a search is refused, never ignored."""
    for name in ("n", "stop", "stop_token_ids", "logprobs", "ignore_eos", "max_tokens", "max_completion_tokens",
                 "include_stop_str_in_output", "continue_final_message"):  # fmt: skip
        if getattr(body, name) not in (None, False, 1):
            raise ApiError(400, f"{name} cannot be combined with thinking: its budget says what is spent.", param=name)


async def think_chat(service: Service, tenant: str, body: ChatRequest, plan: Plan) -> Posterior:
    """The posterior of a chat that is thought about."""
    messages = [message.plain() for message in body.messages]
    async with service.admitted(tenant):
        async for found in deliberate(service, tenant, messages, plan, sampling_of(body)):
            if isinstance(found, Posterior):
                return found
    raise AssertionError("a deliberation ends in a posterior")


def _thought_answer(posterior: Posterior, head: dict[str, Any]) -> dict[str, Any]:
    line = posterior.best_line
    message = {"role": "assistant", "content": posterior.best or "", "reasoning_content": line.text if line else ""}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _thought_finish(posterior)}],
        "usage": _thought_usage(posterior),
        "thinking": report(posterior),
    }


async def _thought_events(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    head = {**head, "object": "chat.completion.chunk"}
    messages = [message.plain() for message in body.messages]

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    async with service.admitted(tenant):
        async for found in deliberate(service, tenant, messages, plan, sampling_of(body)):
            if not isinstance(found, Posterior):
                yield chunk({}, progress=progress(found))
                continue
            line = found.best_line
            yield chunk({"role": "assistant", "reasoning_content": line.text if line else ""})
            yield chunk({"content": found.best or ""})
            yield chunk({}, _thought_finish(found), thinking=report(found))
            if body.stream_options and body.stream_options.include_usage:
                yield {**head, "choices": [], "usage": _thought_usage(found)}


def _thought_finish(posterior: Posterior) -> str:
    return "stop" if posterior.best is not None else "length"


def _thought_usage(posterior: Posterior) -> dict[str, Any]:
    bill, line = posterior.cost, posterior.best_line
    winning = sum(t.tokens for t in line.thought.line()) if line is not None and line.thought is not None else 0
    return usage(bill.prefilled + bill.cached, winning, bill.cached, bill.decoded)
