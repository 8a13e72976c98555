"""What requests ask to be generated: prompts as token ids, how to sample, in which form, how much at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from outthink.core.sampling import Sampling
from outthink.serve.completions import Order
from outthink.serve.failures import ApiError
from outthink.serve.formats import Format, format_of
from outthink.serve.schema import ChatRequest, CompletionRequest, Generating
from outthink.serve.service import Service, sampling_of, until_of


async def prompts_of(service: Service, prompt: str | Sequence[Any]) -> list[list[int]]:
    """One prompt or several, each a text or token ids, as token ids."""
    if isinstance(prompt, str):
        return [await service.encode(prompt)]
    if prompt and isinstance(prompt[0], str):
        return [await service.encode(text) for text in prompt]
    if prompt and isinstance(prompt[0], int):
        return [list(prompt)]
    return [list(tokens) for tokens in prompt]


async def completion_order(service: Service, tenant: str, body: CompletionRequest) -> Order:
    """What a completion request asks to be generated. Raises ApiError for what contradicts itself or does not fit."""
    prompts = await prompts_of(service, body.prompt)
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens must be at least 1, unless the prompt is echoed.", param="max_tokens")
    n = 0 if body.max_tokens == 0 else body.n
    scored = body.echo and body.logprobs is not None
    total = service.check_size(prompts, n, body.max_tokens)
    total += sum(map(len, prompts)) if scored else 0  # a page that is partly filled is computed for both
    return Order(
        prompts,
        n,
        await constrained(service, tenant, body, sampling_of(body, body.logprobs or 0)),
        until_of(body, body.max_tokens or None),
        total,
        body.include_stop_str_in_output,
        body.echo,
        scored,
        body.logprobs is not None or _counts_tokens(body),
    )


async def chat_order(service: Service, tenant: str, body: ChatRequest, wanted: Format | None = None) -> Order:
    """What a chat asks to be generated, in the form ``wanted`` if it says none itself.

    Raises ApiError for options that contradict each other or do not fit.
    """
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
    return Order(
        [prompt],
        body.n,
        await constrained(service, tenant, body, sampling_of(body, body.top_logprobs or 0), wanted),
        until_of(body, max_tokens),
        total,
        body.include_stop_str_in_output,
        tokens=body.logprobs or _counts_tokens(body),
    )


async def constrained(
    service: Service, tenant: str, body: Generating, sampling: Sampling, wanted: Format | None = None
) -> Sampling:
    """``sampling`` within the form that a request wants texts in. Raises ApiError 400 for one that cannot be kept."""
    wanted = wanted or format_of(body)
    if wanted is None:
        return sampling
    if body.ignore_eos:
        raise ApiError(400, f"ignore_eos excludes {wanted.param}: a text that is complete ends.", param="ignore_eos")
    return replace(sampling, constraint=await service.formats.constraint(tenant, wanted))


def _counts_tokens(body: Generating) -> bool:
    """Whether a stream says more of tokens than their text, log-probabilities aside."""
    if body.return_token_ids or body.ignore_eos:  # who ignores ends counts tokens by chunks, as benchmarks do
        return True
    return body.stream_options is not None and body.stream_options.continuous_usage_stats
