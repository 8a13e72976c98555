"""What every route works with: the model, the gate, and a language model bound to one request's budget."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from outthink.serve.terms import OnTerms, Terms
from outthink.serve.timing import Timing
from outthink.serve.tracing import Tracing

ENCODE_SECONDS = 10.0
ENCODE_THREADS = 4
MAX_CHARS_PER_TOKEN = 16  # several times what tokenizers come to on any text that is written
GRACE = 10.0  # seconds after its deadline in which what was cut must be told


@dataclass
class Service:
    """The model as it is served. ``created``: when, in seconds since the epoch, as `/v1/models` says."""

    model: Model
    config: ServeConfig
    gate: Gate
    metrics: Metrics
    tracing: Tracing = field(default_factory=Tracing)
    created: int = field(default_factory=lambda: int(time.time()))
    tokenizing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(ENCODE_THREADS, "tokenizing"))

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
        base, colon, suffix = (name or self.name).partition(":")
        if colon and not suffix:
            raise ApiError(400, f"Nothing stands after the colon of {name!r}: write STRATEGY there.", param="model")
        if base != self.name:
            raise ApiError(
                404, f"There is no model {base!r} here; this server has {self.name!r}.", param="model", code="not_found"
            )
        return base, suffix or None

    def check_plain_name(self, name: str | None) -> None:
        """Raise ApiError 404 for another model, and 400 for a name that asks for thought where there is none."""
        base, suffix = self.base_name(name)
        if suffix is not None:
            raise ApiError(
                400, f"Thinking is for chats, responses and solves; here the model is plain {base!r}.", param="model"
            )

    def accept(self, asked: OnTerms, waited: float = 0.0) -> None:
        """Work on a request, made ``waited`` seconds ago, in this context, on the terms that it asks for. Raises
        ApiError 400 where it may not.
        """
        Terms.agree(asked, self.config.api_keys, waited)

    def lm(self, tenant: str, budget: Budget, sampling: Sampling | None = None) -> LocalLM:
        """The model bound to a new ledger; what it caches is seen by ``tenant`` alone.

        The ledger ends with the deadline of this server or of the request: what there is then is the answer.
        """
        model, terms = self.model, Terms.here().within(self.config.deadline)
        ledger = Ledger(terms.limit(budget), priority=terms.priority)
        return LocalLM(model.thread, model.loaded.tokenizer, ledger, sampling, name=self.name, namespace=tenant)

    @asynccontextmanager
    async def admitted(self, tenant: str) -> AsyncIterator[None]:
        """A place among those that are worked on. Raises TimeoutError where it is not had before the deadline."""
        timing, terms = Timing.of_waiting(), Terms.here()
        async with asyncio.timeout(self.config.deadline + GRACE), _before(terms.until) as waiting:
            async with self.gate.admitted(tenant, terms.priority):
                waiting.reschedule(None)
                terms.begin()
                timing.enter(self.metrics, self.tracing)
                yield
            timing.finish(self.metrics)

    async def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of ``text``, made off the event loop. Raises ApiError 400 for more text than could ever fit."""
        self._check_chars(text)
        return await self._apart(lambda: self.model.loaded.tokenizer.encode(text, special))

    async def encode_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continued: str = ""
    ) -> list[int]:
        """Token ids of chat messages through the model's own template, then of ``continued``."""
        tokenizer = self.model.loaded.tokenizer

        def render() -> list[int]:
            text = tokenizer.render_chat(messages, add_generation_prompt) + continued
            self._check_chars(text)
            return tokenizer.encode(text)

        return await self._apart(render)

    async def _apart(self, work: Callable[[], list[int]]) -> list[int]:
        """What ``work`` returns, on threads that do nothing else: what is late keeps no other kind of work waiting."""
        async with asyncio.timeout(ENCODE_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self.tokenizing, work)

    def _check_chars(self, text: str) -> None:
        if len(text) > (most := self.context * MAX_CHARS_PER_TOKEN):
            share = f"{MAX_CHARS_PER_TOKEN} for each position of the context"
            raise ApiError(
                400,
                f"A text of {len(text):,} characters: at most {most:,} are read, {share}.",
                code="context_length_exceeded",
            )

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


def _before(until: float) -> asyncio.Timeout:
    """A timeout that ends at ``until``, in monotonic seconds."""
    return asyncio.timeout(None if until == math.inf else until - time.monotonic())


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


def usage(prompt: int, completion: int, cached: int, reasoning: int | None = None) -> dict[str, Any]:
    """Tokens as the OpenAI API counts them. Where there was a search, ``completion`` are those of all its branches and
    ``reasoning`` those of them that are not in the winning line.
    """
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        counts["search_tokens"] = completion
    return counts
