"""Plain generation for the completion and chat routes: whole, or streamed a token at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.local import LocalLM
from outthink.lm.protocol import Branch
from outthink.serve.service import Service
from outthink.serve.stops import StopHold

Scored = Sequence[tuple[float, Sequence[tuple[int, float]]]]
FINISH = {"stop": "stop", "length": "length", "budget": "length"}


@dataclass(frozen=True)
class Order:
    """What is to be generated: ``n`` completions of each of ``prompts``, of no more than ``total`` positions.

    ``n`` 0: none, the prompts are only scored.
    """

    prompts: Sequence[Sequence[int]]
    n: int
    sampling: Sampling
    until: Until
    total: int
    keep_stop: bool = False
    echo_logprobs: bool = False


@dataclass
class Choice:
    """One completion. ``prompt`` and ``index`` say which; ``scored`` holds the prompt's own (log-probability, top)."""

    prompt: int
    index: int
    text: str
    finish: str
    tokens: Sequence[int]
    log_probs: Sequence[float]
    top: Sequence[Sequence[tuple[int, float]]]
    scored: Scored = ()


@dataclass
class Outcome:
    """All completions of an order, in order, and what they cost."""

    choices: list[Choice]
    ledger: Ledger
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)


@dataclass(frozen=True)
class Piece:
    """New text of one completion while it grows; ``choice`` is set with the last."""

    prompt: int
    index: int
    text: str
    choice: Choice | None = None


@dataclass
class _Stream:
    """Pieces on their way from the stepping thread to the event loop."""

    queue: asyncio.Queue[Piece | None] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def put(self, piece: Piece | None) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, piece)


async def generate(service: Service, tenant: str, order: Order, stream: _Stream | None = None) -> Outcome:
    """Every completion of ``order``. All of one prompt share its prefill, as do equal prompts of one tenant."""
    lm = service.lm(tenant, Budget(tokens=order.total), order.sampling)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_choices(lm, prompt, number, order, stream))
                for number, prompt in enumerate(order.prompts)
            ]
    except ExceptionGroup as failures:  # one is told of; the others fell with it
        raise failures.exceptions[0] from None
    service.metrics.prompt_tokens.inc(sum(map(len, order.prompts)))
    outcome = Outcome([c for task in tasks for c in task.result()], lm.ledger, sum(map(len, order.prompts)))
    service.metrics.generation_tokens.inc(outcome.completion_tokens)
    for choice in outcome.choices:
        service.metrics.finished.labels(choice.finish).inc()
    return outcome


async def stream(service: Service, tenant: str, order: Order) -> AsyncIterator[Piece | Outcome]:
    """The pieces of every completion as they come, then the outcome."""
    pieces, began = _Stream(), time.monotonic()
    holds = {(p, i): StopHold(order.until.stop) for p in range(len(order.prompts)) for i in range(order.n)}
    work = asyncio.create_task(generate(service, tenant, order, pieces))
    work.add_done_callback(lambda _: pieces.put(None))
    last = 0.0
    try:
        while (piece := await pieces.queue.get()) is not None:
            now = time.monotonic()
            if last:
                service.metrics.between_tokens.observe(now - last)
            else:
                service.metrics.first_token.observe(now - began)
            last, hold = now, holds[piece.prompt, piece.index]
            text = hold.add(piece.text) if piece.choice is None else hold.finish(piece.choice.text)
            if text or piece.choice is not None:
                yield Piece(piece.prompt, piece.index, text, piece.choice)
        yield await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _choices(
    lm: LocalLM, prompt: Sequence[int], number: int, order: Order, stream: _Stream | None
) -> list[Choice]:
    scored = await _scored_prompt(lm, prompt, order.sampling.top_logprobs) if order.echo_logprobs else ()
    if order.n == 0:
        return [Choice(number, 0, "", "length", (), (), (), scored)]
    async with await lm.root(list(prompt)) as root:
        show = None if stream is None else lambda index, text: stream.put(Piece(number, index, text))
        lines = await root.extend(order.n, order.until, order.sampling, show)
        choices = [_choice(number, index, line, order, scored) for index, line in enumerate(lines)]
        for line in lines:
            await line.close()
    if stream is not None:
        for choice in choices:
            stream.put(Piece(number, choice.index, "", choice))
    return choices


def _choice(number: int, index: int, line: Branch, order: Order, scored: Scored) -> Choice:
    text = line.text if order.keep_stop else line.completion
    return Choice(
        number, index, text, FINISH[line.finish or "stop"], line.tokens, line.log_probs, line.top_log_probs, scored
    )


async def _scored_prompt(lm: LocalLM, prompt: Sequence[int], top: int) -> Scored:
    """What the model thought of each token of the prompt but the first."""
    first = await lm.root(list(prompt[:1]))
    async with first:
        return await first.score_top(list(prompt[1:]), top)
