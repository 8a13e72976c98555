"""Plain generation for the completion and chat routes: whole, or streamed a token at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from io import StringIO

from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.local import LocalLM
from outthink.lm.protocol import Branch
from outthink.serve.service import Service
from outthink.serve.stops import StopHold

Scored = Sequence[tuple[float, Sequence[tuple[int, float]]]]
MOST_WAITING = 256
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
class _Text:
    """New text of one completion that waits for its reader, and grows while it waits."""

    prompt: int
    index: int
    text: StringIO = field(default_factory=StringIO)


@dataclass
class Stream:
    """Pieces on their way from the stepping thread to the event loop.

    One that is read in time hands on every piece by itself. Once `MOST_WAITING` wait, what comes is joined to what
    waits of the same completion: so a slow reader costs no more memory than the text that it has yet to read.
    """

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    waiting: deque[_Text | Piece | None] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._arrived = asyncio.Event()
        self._newest: dict[tuple[int, int], _Text] = {}

    def put(self, piece: Piece | None) -> None:
        """Hand a piece over, or None as the last. Safe from any thread."""
        self.loop.call_soon_threadsafe(self._add, piece)

    async def get(self) -> Piece | None:
        """The next piece."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        first = self.waiting.popleft()
        if not isinstance(first, _Text):
            return first
        key = (first.prompt, first.index)
        if self._newest.get(key) is first:
            del self._newest[key]
        return Piece(first.prompt, first.index, first.text.getvalue())

    def _add(self, piece: Piece | None) -> None:
        self._arrived.set()
        if piece is None or piece.choice is not None:
            self.waiting.append(piece)
            return
        key = (piece.prompt, piece.index)
        text = self._newest.get(key) if len(self.waiting) >= MOST_WAITING else None
        if text is None:
            text = self._newest[key] = _Text(*key)
            self.waiting.append(text)
        text.text.write(piece.text)


async def generate(service: Service, tenant: str, order: Order, stream: Stream | None = None) -> Outcome:
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
    pieces, began = Stream(), time.monotonic()
    holds = {(p, i): StopHold(order.until.stop) for p in range(len(order.prompts)) for i in range(order.n)}
    work = asyncio.create_task(generate(service, tenant, order, pieces))
    work.add_done_callback(lambda _: pieces.put(None))
    last = 0.0
    try:
        while (piece := await pieces.get()) is not None:
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
    lm: LocalLM, prompt: Sequence[int], number: int, order: Order, stream: Stream | None
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
