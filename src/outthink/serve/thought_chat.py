"""A chat that is thought about, as the chat route answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from outthink.core.posterior import Posterior
from outthink.lm.grammar import Grammar
from outthink.lm.local import LocalLM
from outthink.serve.failures import ApiError
from outthink.serve.formats import Format, answer_reader, format_of
from outthink.serve.orders import constrained
from outthink.serve.schema import ChatRequest
from outthink.serve.service import Service, sampling_of, usage
from outthink.serve.thinking import Plan, deliberate, progress, report


def refuse_beside_thinking(body: ChatRequest) -> None:
    """What has no meaning for a search is refused, never ignored."""
    for name in ("n", "stop", "stop_token_ids", "logprobs", "ignore_eos", "max_tokens", "max_completion_tokens",
                 "include_stop_str_in_output", "continue_final_message", "return_token_ids",
                 "return_tokens_as_token_ids"):  # fmt: skip
        if getattr(body, name) not in (None, False, 1):
            raise ApiError(400, f"{name} cannot be combined with thinking: its budget says what is spent.", param=name)


async def thoughts(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, wanted: Format | None = None
) -> AsyncGenerator[LocalLM | Posterior, None]:
    """How a chat is thought about, in lines of the form ``wanted`` if it says none itself; see `deliberate`."""
    messages, wanted = [message.plain() for message in body.messages], wanted or format_of(body)
    sampling = await constrained(service, body, sampling_of(body), wanted)
    read = answer_reader(wanted, sampling.constraint) if wanted and isinstance(sampling.constraint, Grammar) else None
    thinking = aclosing(deliberate(service, tenant, messages, plan, sampling, read))
    async with service.admitted(tenant), thinking as found:
        async for each in found:
            yield each


async def think_chat(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, wanted: Format | None = None
) -> Posterior:
    """The posterior of a chat that is thought about."""
    async with aclosing(thoughts(service, tenant, body, plan, wanted)) as found:
        async for each in found:
            if isinstance(each, Posterior):
                return each
    raise AssertionError("a deliberation ends in a posterior")


def thought_answer(posterior: Posterior, head: dict[str, Any]) -> dict[str, Any]:
    """The whole answer."""
    line = posterior.best_line
    message = {"role": "assistant", "content": posterior.best or "", **_reasoning(line.text if line else "")}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _thought_finish(posterior)}],
        "usage": _thought_usage(posterior),
        "thinking": report(posterior),
    }


async def thought_events(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """How far the search is, then its answer."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    async with aclosing(thoughts(service, tenant, body, plan)) as news:
        async for found in news:
            if not isinstance(found, Posterior):
                yield chunk({}, progress=progress(found))
                continue
            line = found.best_line
            yield chunk({"role": "assistant", **_reasoning(line.text if line else "")})
            yield chunk({"content": found.best or ""})
            yield chunk({}, _thought_finish(found), thinking=report(found))
            if body.stream_options and body.stream_options.include_usage:
                yield {**head, "choices": [], "usage": _thought_usage(found)}


def _reasoning(line: str) -> dict[str, str]:
    """The winning line under both of the names that clients read."""
    return {"reasoning": line, "reasoning_content": line}


def _thought_finish(posterior: Posterior) -> str:
    return "stop" if posterior.best is not None else "length"


def _thought_usage(posterior: Posterior) -> dict[str, Any]:
    bill, line = posterior.cost, posterior.best_line
    winning = sum(t.tokens for t in line.thought.line()) if line is not None and line.thought is not None else 0
    return usage(bill.prefilled + bill.cached, bill.decoded, bill.cached, bill.decoded - winning)
