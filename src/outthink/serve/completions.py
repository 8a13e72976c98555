"""Plain generation for the completion and chat routes: whole, or streamed a token at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO

from outthink.core.budget import Bill, Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.local import LocalLM
from outthink.lm.protocol import Branch
from outthink.serve.logprobs import Drawn
from outthink.serve.service import Service
from outthink.serve.stops import StopHold
from outthink.serve.timing import Ticks, Timing

Show = Callable[[int, int, str, Sequence[Drawn]], None]
MOST_WAITING = 256
MOST_AT_ONCE = 64  # pieces between which nobody else has a turn
FINISH = {"stop": "stop", "length": "length", "budget": "length"}


@dataclass(frozen=True)
class Order:
    """What is to be generated: ``n`` completions of each of ``prompts``, of no more than ``total`` positions.

    ``n`` 0: none, the prompts are only scored. ``echo``: choices begin with their prompt; with ``echo_logprobs`` it is
    scored. ``tokens``: a stream tells of each token, in a piece of its own where its reader keeps up.
    """

    prompts: Sequence[Sequence[int]]
    n: int
    sampling: Sampling
    until: Until
    total: int
    keep_stop: bool = False
    echo: bool = False
    echo_logprobs: bool = False
    tokens: bool = False


@dataclass
class Choice:
    """One completion. ``prompt`` and ``index`` say which; ``echoed``: the tokens of the prompt, where it is scored."""

    prompt: int
    index: int
    text: str
    finish: str
    drawn: Sequence[Drawn] = ()
    echoed: Sequence[Drawn] = ()


@dataclass
class Outcome:
    """All completions of an order, in order, and what they cost."""

    choices: list[Choice]
    ledger: Ledger
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.drawn) for choice in self.choices)

    @property
    def cached(self) -> int:
        """Prompt tokens that were not computed for this."""
        return cached_of(self.ledger.bill, self.prompt_tokens)


@dataclass
class Piece:
    """New text of one completion while it grows, and the tokens that came with it where they are asked for.

    ``echoed`` is set with the first of an order that echoes, ``choice`` with the last. ``bill``: what was used so far.
    """

    prompt: int
    index: int
    text: str
    choice: Choice | None = None
    drawn: Sequence[Drawn] = ()
    echoed: Sequence[Drawn] | None = None
    bill: Bill | None = None


@dataclass
class _Text:
    """New text of one completion that waits for its reader, and grows while it waits."""

    prompt: int
    index: int
    text: StringIO = field(default_factory=StringIO)
    drawn: list[Drawn] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int]:
        """Which completion it is of."""
        return self.prompt, self.index

    def joined(self) -> Piece:
        """All of it as one piece."""
        return Piece(self.prompt, self.index, self.text.getvalue(), drawn=self.drawn)


@dataclass
class Stream:
    """Pieces on their way from the stepping thread to the event loop.

    One that is read in time hands on every piece by itself. While `MOST_WAITING` wait, what comes is joined to the last
    of the same completion: so a slow reader costs no more memory than the text that it has yet to read.
    """

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    ledger: Ledger | None = None
    waiting: deque[_Text | Piece] = field(default_factory=deque)
    over: bool = False

    def __post_init__(self) -> None:
        self._arrived, self._handed, self._told = asyncio.Event(), deque[Piece | None](), False
        self._newest: dict[tuple[int, int], _Text] = {}  # what waits of each completion

    def put(self, piece: Piece | None) -> None:
        """Hand a piece over, or None as the last. Safe from any thread."""
        self._handed.append(piece)
        if not self._told:  # one message for all that come before it is heard
            self._told = True
            self.loop.call_soon_threadsafe(self._take_over)

    async def get(self) -> list[Piece]:
        """The pieces that wait, no more than may be written in one turn, once there are any; none once all have been
        handed over.
        """
        while not self.waiting and not self.over:
            self._arrived.clear()
            await self._arrived.wait()
        found = [self.waiting.popleft() for _ in range(min(len(self.waiting), MOST_AT_ONCE))]
        for text in found:
            if isinstance(text, _Text) and self._newest.get(text.place) is text:
                del self._newest[text.place]
        return [piece if isinstance(piece, Piece) else piece.joined() for piece in found]

    def _take_over(self) -> None:
        self._told, late = False, len(self.waiting) >= MOST_WAITING
        self._arrived.set()
        while self._handed:
            self._add(self._handed.popleft(), late)

    def _add(self, piece: Piece | None, late: bool) -> None:
        if piece is None:
            self.over = True
        elif piece.choice is not None or piece.echoed is not None:
            self.waiting.append(piece)
        else:
            text = self._newest.get((piece.prompt, piece.index)) if late else None
            if text is None:
                text = _Text(piece.prompt, piece.index)
                self._newest[text.place] = text
                self.waiting.append(text)
            text.text.write(piece.text)
            text.drawn += piece.drawn


async def generate(service: Service, tenant: str, order: Order, stream: Stream | None = None) -> Outcome:
    """Every completion of ``order``. All of one prompt share its prefill, as do equal prompts of one tenant."""
    lm = service.lm(tenant, Budget(tokens=order.total), order.sampling)
    timing, metrics = Timing.of_admitted(), service.metrics
    if stream is not None:
        stream.ledger = lm.ledger

    def show(prompt: int, index: int, text: str, drawn: Sequence[Drawn]) -> None:
        if stream is not None:
            stream.put(Piece(prompt, index, text, drawn=drawn))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_choices(lm, prompt, number, order, show, stream, Ticks(timing, metrics, number)))
                for number, prompt in enumerate(order.prompts)
            ]
    except ExceptionGroup as failures:  # one is told of; the others fell with it
        raise failures.exceptions[0] from None
    outcome = Outcome([c for task in tasks for c in task.result()], lm.ledger, sum(map(len, order.prompts)))
    timing.settle(metrics, service.tracing)
    metrics.generated(order.n, order.until.max_tokens, outcome.prompt_tokens, outcome.completion_tokens)
    for choice in outcome.choices:
        metrics.finished.labels(choice.finish).inc()
    return outcome


async def stream(service: Service, tenant: str, order: Order) -> AsyncIterator[Sequence[Piece] | Outcome]:
    """The pieces of every completion as they come, those together that do, then the outcome."""
    pieces = Stream()
    places = [(p, i) for p in range(len(order.prompts)) for i in range(max(1, order.n))]
    held = {place: _Held(StopHold(order.until.stop), order.tokens) for place in places}
    work = asyncio.create_task(generate(service, tenant, order, pieces))
    work.add_done_callback(lambda _: pieces.put(None))
    try:
        while found := await pieces.get():
            bill = None if pieces.ledger is None else pieces.ledger.bill
            news = [piece for piece in found if held[piece.prompt, piece.index].pass_on(piece)]
            for piece in news:
                piece.bill = bill
            if news:
                yield news
        yield await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@dataclass
class _Held:
    """What of one completion may not be sent yet: the beginning of a stop string, and the tokens that spell it."""

    stops: StopHold
    tells_tokens: bool
    drawn: list[Drawn] = field(default_factory=list)
    num_sent: int = 0

    def pass_on(self, piece: Piece) -> bool:
        """Leave in ``piece`` what may be sent; tokens wait for as long as text does. Whether it tells of anything."""
        if piece.echoed is not None:
            return True
        drew = bool(piece.drawn)
        self.drawn += piece.drawn
        if piece.choice is None:
            piece.text, piece.drawn = self.stops.add(piece.text), self.drawn
        else:
            piece.text = self.stops.finish(piece.choice.text)
            piece.drawn = piece.choice.drawn[self.num_sent :] if self.tells_tokens else ()
        if not piece.text and piece.choice is None and self.stops.holds:
            piece.drawn = ()
        else:
            self.drawn, self.num_sent = [], self.num_sent + len(piece.drawn)
        return bool(piece.text or drew or piece.choice is not None)


async def _choices(
    lm: LocalLM,
    prompt: Sequence[int],
    number: int,
    order: Order,
    show: Show,
    stream: Stream | None,
    ticks: Ticks,
) -> list[Choice]:
    echoed = await _scored_prompt(lm, prompt, order.sampling.top_logprobs) if order.echo_logprobs else ()
    if stream is not None and order.echo:
        for index in range(max(1, order.n)):
            stream.put(Piece(number, index, "", echoed=echoed))
    if order.n == 0:
        choices = [Choice(number, 0, "", "length", echoed=echoed)]
    else:
        told = stream is not None and order.tokens
        choices = await _grown(lm, prompt, number, order, show if stream is not None else None, told, ticks, echoed)
    if stream is not None:
        for choice in choices:
            stream.put(Piece(number, choice.index, "", choice))
    return choices


async def _grown(
    lm: LocalLM,
    prompt: Sequence[int],
    number: int,
    order: Order,
    show: Show | None,
    told: bool,
    ticks: Ticks,
    echoed: Sequence[Drawn],
) -> list[Choice]:
    pending: dict[int, list[Drawn]] = {}  # a token whose text is not there; known to the stepping thread alone

    def on_token(index: int, text: str) -> None:
        assert show is not None
        show(number, index, text, pending.pop(index, ()))

    def on_draw(index: int, token: int, log_prob: float, top: Sequence[tuple[int, float]]) -> None:
        if before := pending.pop(index, ()):  # it had no text, or only a part of a character
            assert show is not None
            show(number, index, "", before)
        pending[index] = [Drawn(token, log_prob, top)]

    root = await lm.root(list(prompt))
    async with root:
        watch = None if show is None else on_token
        lines = await root.extend(
            order.n, order.until, order.sampling, watch, on_draw if told else None, progress=ticks
        )
        for index, last in pending.items():
            assert show is not None
            show(number, index, "", last)
        choices = [_choice(number, index, line, order, echoed) for index, line in enumerate(lines)]
        for line in lines:
            await line.close()
    return choices


def _choice(number: int, index: int, line: Branch, order: Order, echoed: Sequence[Drawn]) -> Choice:
    text = line.text if order.keep_stop else line.completion
    tops = line.top_log_probs or [()] * len(line.tokens)
    drawn = [Drawn(*each) for each in zip(line.tokens, line.log_probs, tops, strict=True)]
    return Choice(number, index, text, FINISH[line.finish or "stop"], drawn, echoed)


async def _scored_prompt(lm: LocalLM, prompt: Sequence[int], top: int) -> list[Drawn]:
    """The prompt, with what the model thought of each token but the first."""
    first = await lm.root(list(prompt[:1]))
    async with first:
        scored = await first.score_top(list(prompt[1:]), top)
    return [Drawn(prompt[0], None, None), *(Drawn(t, *found) for t, found in zip(prompt[1:], scored, strict=False))]


def cached_of(bill: Bill, prompt_tokens: int) -> int:
    """Of ``prompt_tokens`` how many were not computed for the work on ``bill``."""
    return min(bill.cached, max(0, prompt_tokens - bill.prefilled))
