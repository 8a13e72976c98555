"""What every route works with: the model, the gate, and a language model bound to one request's budget."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.engine.checks import check_tokens
from outthink.lm.local import LocalLM
from outthink.lm.model import Model
from outthink.serve.config import ServeConfig
from outthink.serve.failures import ApiError
from outthink.serve.formats import Formats
from outthink.serve.gate import Gate
from outthink.serve.metrics import Metrics
from outthink.serve.schema import Generating
from outthink.serve.timing import Timing
from outthink.serve.tracing import Tracing

ENCODE_SECONDS = 10.0


@dataclass
class Service:
    """The model as it is served. ``created``: when, in seconds since the epoch, as `/v1/models` says."""

    model: Model
    config: ServeConfig
    gate: Gate
    metrics: Metrics
    tracing: Tracing = field(default_factory=Tracing)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.config.served_name or self.model.name

    @cached_property
    def formats(self) -> Formats:
        """What makes constraints of the forms that clients want answers in."""
        return Formats(self.model.loaded.tokenizer)

    @property
    def context(self) -> int:
        """The most positions that a line may have, its prompt included."""
        return self.model.engine.max_positions

    @property
    def num_tokens(self) -> int:
        """How many token ids there are that the model can read and the tokenizer write."""
        loaded = self.model.loaded
        return min(loaded.config.vocab_size, loaded.tokenizer.vocab_size)

    def base_name(self, name: str | None) -> tuple[str, str | None]:
        """The model's name and what stands after the colon in ``name``. Raises ApiError 404 for another model."""
        base, _, suffix = (name or self.name).partition(":")
        if base != self.name:
            raise ApiError(
                404, f"There is no model {base!r} here; this server has {self.name!r}.", param="model", code="not_found"
            )
        return base, suffix or None

    def lm(self, tenant: str, budget: Budget, sampling: Sampling | None = None) -> LocalLM:
        """The model bound to a new ledger; what it caches is seen by ``tenant`` alone."""
        model = self.model
        return LocalLM(model.thread, model.loaded.tokenizer, Ledger(budget), sampling, name=self.name, namespace=tenant)

    @asynccontextmanager
    async def admitted(self, tenant: str) -> AsyncIterator[None]:
        """A place among those that are worked on, for as long as the deadline allows."""
        timing = Timing.of_waiting()
        async with asyncio.timeout(self.config.deadline):
            async with self.gate.admitted(tenant):
                timing.enter(self.metrics, self.tracing)
                yield
            timing.finish(self.metrics)

    async def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of ``text``, made off the event loop."""
        async with asyncio.timeout(ENCODE_SECONDS):
            return await asyncio.to_thread(self.model.loaded.tokenizer.encode, text, special)

    async def encode_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continued: str = ""
    ) -> list[int]:
        """Token ids of chat messages through the model's own template, then of ``continued``."""
        tokenizer = self.model.loaded.tokenizer

        def render() -> list[int]:
            return tokenizer.encode(tokenizer.render_chat(messages, add_generation_prompt) + continued)

        async with asyncio.timeout(ENCODE_SECONDS):
            return await asyncio.to_thread(render)

    def check_size(self, prompts: Sequence[Sequence[int]], n: int, max_tokens: int | None) -> int:
        """The positions that a request may come to. Raises ApiError 400 where that is too much, or cannot fit."""
        config, total = self.config, 0
        if not prompts:
            raise ApiError(400, "There is no prompt.", param="prompt")
        if n * len(prompts) > config.max_branches:
            raise ApiError(400, f"n x prompts is {n * len(prompts):,}; at most {config.max_branches:,}.", param="n")
        for prompt in prompts:
            if not prompt:
                raise ApiError(400, "A prompt is empty.", param="prompt")
            if len(prompt) >= self.context:
                raise ApiError(
                    400,
                    f"A prompt of {len(prompt):,} tokens leaves no room: the context is {self.context:,} positions.",
                    param="prompt",
                    code="context_length_exceeded",
                )
            check_tokens(prompt, self.num_tokens)
            room = self.context - len(prompt)
            total += len(prompt) + n * min(room, max_tokens if max_tokens is not None else room)
        if total > config.max_tokens:
            raise ApiError(
                400,
                f"This request may come to {total:,} positions (prompts, and n x max_tokens); this server allows "
                f"{config.max_tokens:,}. Ask for fewer or shorter completions.",
                param="max_tokens",
            )
        return total


def sampling_of(request: Generating, top_logprobs: int = 0) -> Sampling:
    """How a request samples. Without a seed, a random one. Raises ApiError for a bias on what is no token id."""
    bias = {}
    for token, value in (request.logit_bias or {}).items():
        if not re.fullmatch(r"[0-9]{1,9}", token):
            raise ApiError(400, f"logit_bias has the key {token!r}: keys are token ids.", param="logit_bias")
        bias[int(token)] = value
    return Sampling(
        temperature=request.temperature,
        top_k=request.top_k if request.top_k and request.top_k > 0 else None,
        top_p=request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=bias,
        seed=request.seed if request.seed is not None else time.time_ns() & ((1 << 63) - 1),
        top_logprobs=top_logprobs,
    )


def until_of(request: Generating, max_tokens: int | None) -> Until:
    """Where the completions of a request stop."""
    stop = request.stop or ()
    return Until(
        max_tokens, (stop,) if isinstance(stop, str) else tuple(stop), tuple(request.stop_token_ids or ()),
        request.ignore_eos,
    )  # fmt: skip


def usage(prompt: int, completion: int, cached: int, search: int | None = None) -> dict[str, Any]:
    """Tokens as the OpenAI API counts them; ``search``: those of all branches, where there was a search."""
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if search is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": max(0, search - completion)}
        counts["search_tokens"] = search
    return counts
