"""A chat that is thought about, as the chat route answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from outthink.core.posterior import Posterior
from outthink.lm.grammar import Grammar
from outthink.lm.local import LocalLM
from outthink.serve.completions import cached_of
from outthink.serve.failures import ApiError
from outthink.serve.formats import Format, answer_reader, format_of
from outthink.serve.orders import constrained
from outthink.serve.schema import ChatRequest
from outthink.serve.service import Service, sampling_of, usage
from outthink.serve.thinking import Plan, deliberate, plan_of, progress, report

HEEDED = frozenset({
    "messages", "model", "thinking", "reasoning_effort", "thinking_token_budget", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "seed", "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
    "stream", "stream_options", "priority", "timeout", "user", "safety_identifier", "metadata", "store",
})  # fmt: skip
"""Fields of a chat that are done, or mean nothing, where it is thought about. Any other is refused."""


@dataclass(frozen=True)
class Conclusion:
    """What a search came to, for a prompt of so many tokens."""

    posterior: Posterior
    prompt_tokens: int

    @property
    def usage(self) -> tuple[int, int, int, int]:
        """Tokens of the prompt, of all branches, of the prompt in the cache, and of all branches but the winning line.

        What a verifier read is not among them; it is on the bill.
        """
        bill, line = self.posterior.cost, self.posterior.best_line
        winning = sum(t.tokens for t in line.thought.line()) if line is not None and line.thought is not None else 0
        own = replace(bill, prefilled=max(0, bill.prefilled - bill.verifier_tokens))
        return self.prompt_tokens, bill.decoded, cached_of(own, self.prompt_tokens), max(0, bill.decoded - winning)


def plan_of_chat(service: Service, body: ChatRequest) -> Plan | None:
    """How a chat is thought about; None where it asks for no thought.

    Raises ApiError for another model's name, and for what a search does not heed: nothing is ignored.
    """
    _, suffix = service.base_name(body.model)
    longest = body.max_completion_tokens or body.max_tokens
    plan = plan_of(body.thinking, body.reasoning_effort, body.thinking_token_budget, suffix, longest)
    if plan is not None:
        _refuse_unheeded(body)
    return plan


def _refuse_unheeded(body: ChatRequest) -> None:
    for name, field in type(body).model_fields.items():
        value = getattr(body, name)
        asks_nothing = value == field.default or (field.default is None and not value)
        if name not in HEEDED and not asks_nothing:
            raise ApiError(400, f"{name} cannot be combined with thinking.", param=name)
    if body.stream_options is not None and body.stream_options.continuous_usage_stats:
        name = "stream_options.continuous_usage_stats"
        raise ApiError(400, f"{name} cannot be combined with thinking: progress says what is used.", param=name)


async def thoughts(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, wanted: Format | None = None
) -> AsyncGenerator[LocalLM | Conclusion, None]:
    """How a chat is thought about, in lines of the form ``wanted`` if it says none itself: the `LM` a few times a
    second, then the conclusion; see `deliberate`. Raises ApiError 400 for a prompt that cannot fit.
    """
    messages, wanted = [message.plain() for message in body.messages], wanted or format_of(body)
    tokens = await service.encode_chat(messages)
    service.check_size([tokens], 1, 0)
    sampling = await constrained(service, tenant, body, sampling_of(body), wanted)
    read = answer_reader(wanted, sampling.constraint) if wanted and isinstance(sampling.constraint, Grammar) else None
    thinking = aclosing(deliberate(service, tenant, messages, plan, sampling, read))
    async with service.admitted(tenant), thinking as found:
        async for each in found:
            yield Conclusion(each, len(tokens)) if isinstance(each, Posterior) else each


async def think_chat(
    service: Service, tenant: str, body: ChatRequest, plan: Plan, wanted: Format | None = None
) -> Conclusion:
    """What a chat that is thought about comes to."""
    async with aclosing(thoughts(service, tenant, body, plan, wanted)) as found:
        async for each in found:
            if isinstance(each, Conclusion):
                return each
    raise AssertionError("a deliberation ends in a posterior")


def thought_answer(found: Conclusion, head: dict[str, Any]) -> dict[str, Any]:
    """The whole answer."""
    posterior, line = found.posterior, found.posterior.best_line
    message = {"role": "assistant", "content": posterior.best or "", **_reasoning(line.text if line else "")}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _thought_finish(posterior)}],
        "usage": usage(*found.usage),
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
            if not isinstance(found, Conclusion):
                yield chunk({}, progress=progress(found))
                continue
            posterior, line = found.posterior, found.posterior.best_line
            yield chunk({"role": "assistant", **_reasoning(line.text if line else "")})
            yield chunk({"content": posterior.best or ""})
            yield chunk({}, _thought_finish(posterior), thinking=report(posterior))
            if body.stream_options and body.stream_options.include_usage:
                yield {**head, "choices": [], "usage": usage(*found.usage)}


def _reasoning(line: str) -> dict[str, str]:
    """The winning line under both of the names that clients read."""
    return {"reasoning": line, "reasoning_content": line}


def _thought_finish(posterior: Posterior) -> str:
    return "stop" if posterior.best is not None else "length"
