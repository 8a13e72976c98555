"""Children of a branch, written by a server: `grow` is the whole story.

The budget is set aside before anything is sent; a lost connection is resumed from what came; what the ledger no longer
pays for is cut, by dropping the connection.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import OnToken
from outthink.lm.remote.capabilities import CHAT
from outthink.lm.remote.connection import Patience
from outthink.lm.remote.errors import InterruptedResponseError, StalledError, TransientError, UnusableResponseError
from outthink.lm.remote.growing import Growing
from outthink.lm.remote.meter import Meter
from outthink.lm.remote.prefix import PAGE, Prefix
from outthink.lm.remote.purse import Deposit
from outthink.lm.remote.server import Server
from outthink.lm.remote.wire import Reading, read, request

LONGEST = 4096  # tokens of one text where neither the caller, the budget nor the server's context bounds it
POLL_S = 0.02  # how often a ledger is asked whether a response that brings nothing new is still wanted


async def grow(
    server: Server,
    prefix: Prefix,
    children: Sequence[Growing],
    until: Until,
    sampling: Sampling,
    ledger: Ledger,
    on_token: OnToken | None,
) -> None:
    """Grow ``children`` below ``prefix`` until each is over.

    Raises the errors of the server that are past cure, and those of ``on_token``; no child is grown on then.
    """
    work = _Work(server, prefix, list(children), until, sampling, ledger, on_token)
    writing = asyncio.create_task(work.run())
    try:
        while not writing.done() and not work.spent:
            await asyncio.wait({writing}, timeout=max(0.0, min(POLL_S, ledger.seconds_left)))
    finally:
        if not writing.done():
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
    if not writing.cancelled():
        writing.result()
    for child in children:
        child.cut("budget")
        work.show(child)


class _Work:
    """One extension."""

    def __init__(
        self,
        server: Server,
        prefix: Prefix,
        children: list[Growing],
        until: Until,
        sampling: Sampling,
        ledger: Ledger,
        on_token: OnToken | None,
    ) -> None:
        self.server, self.route, self.prefix, self.children = server, server.route(prefix), prefix, children
        self.until, self.sampling, self.ledger, self.on_token = until, sampling, ledger, on_token
        self.deposit: Deposit | None = None
        self._used = False

    @property
    def spent(self) -> bool:
        """Whether nothing more may be spent. Tokens enough were set aside, unless a prompt was longer than guessed."""
        ledger = self.ledger
        over = ledger.cancelled or min(ledger.seconds_left, ledger.flops_left) <= 0
        return over or (ledger.tokens_left <= 0 and any(not child.over for child in self.children))

    async def run(self) -> None:
        """Set tokens aside, then have every child written."""
        if self.ledger.exhausted:
            return
        if self.ledger.tokens_left < math.inf:
            await self.server.learn(self.prefix)
        if self._full():
            for child in self.children:
                child.cut("length")
            return
        told = self.route.stops or not self.until.stop  # one of several texts cannot be cut here without the others
        together = self.server.together and self.route.many and not self.server.ignores_n and told
        paid = await self._reserve(1 if together else len(self.children))
        try:
            groups = [paid] if together and paid else [[child] for child in paid]
            await _each(self._write(group, self.server.client.patience()) for group in groups)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            assert self.deposit is not None
            self.deposit.close()
            self._charge_cached()

    async def _reserve(self, requests: int) -> list[Growing]:
        """Set tokens aside for prompts and texts; returns the children that can be paid for at least one token."""
        prefix, n = self.prefix, len(self.children)
        first = max(0, prefix.most - (prefix.surely_cached if self.route.caches else 0))
        more = min(prefix.most, PAGE) if self.route.caches else prefix.most
        longest = math.inf if self.until.max_tokens is None else self.until.max_tokens
        self.deposit = await self.server.bank.take(self.ledger, first + 1, first + more * (requests - 1) + n * longest)
        left = self.deposit.left
        if self.server.flops:
            left = min(left, self.ledger.flops_left // self.server.flops)
        if left == math.inf:
            return self.children
        paid: list[Growing] = []
        for child in self.children:
            price = 1 + (first if not paid else more if requests > 1 else 0)
            if left < price:
                break
            left -= price
            paid.append(child)
        for at, child in enumerate(paid):
            child.pays = 1 + int(left) // len(paid) + (at < int(left) % len(paid))
        return paid

    async def _write(self, group: list[Growing], patience: Patience) -> None:
        """Have the children of one request written, in as many attempts as it takes."""
        while todo := [child for child in group if not child.over]:
            if len(todo) > 1 and (self.server.ignores_n or any(child.drawn for child in todo)):
                await _each(self._write([child], patience) for child in todo)
                return
            try:
                await self._attempt(todo)
                if not any(child.over for child in todo):
                    raise InterruptedResponseError("The server's response ended before the text did.")
                self.server.ignores_n |= any(not child.over for child in todo)
            except TransientError as error:
                if all(child.over for child in todo):
                    return
                pause = patience.wait_s(error)
                for child in todo:
                    self._make_resumable(child, error)
                await asyncio.sleep(pause)

    async def _attempt(self, todo: list[Growing]) -> None:
        """One request and its response."""
        first, server = todo[0], self.server
        prefix = self.prefix
        if first.drawn:
            prefix = prefix.then(first.text, first.ids, len(first.drawn), drawn=True)
        rooms = [child.room for child in todo if child.room is not None]
        most = self._fitting(prefix, max(rooms) if len(rooms) == len(todo) else None)
        seed = mix(mix(self.sampling.seed, first.key), len(first.drawn)) & 0x7FFFFFFF
        model, prompt = server.capabilities.model, prefix.prompt(self.route.token_ids)
        body = request(self.route, model, prompt, len(todo), most, self.until, self.sampling, seed)
        for child in todo:
            child.begin_response()
        meter, sent = Meter(self.ledger, prefix, self.deposit, server.flops), asyncio.Event()
        async with aclosing(server.client.stream(self.route.path, body, sent.set)) as events:
            worked = False
            try:
                async for event in events:
                    worked = True
                    if not self._take(read(event), todo, prefix, meter):
                        break
            except (StalledError, asyncio.CancelledError):
                worked = sent.is_set()  # the server was at it, for all that we know
                raise
            finally:
                if worked:
                    meter.close()
                    self._used = True
                    self.prefix.computed += prefix.computed if prefix is not self.prefix else 0
        for child in todo:
            if len(todo) == 1 and meter.usage is not None:
                child.settle_count(meter.usage.completion)
            elif child.closed and child.finish == "length" and most is not None:
                child.settle_count(most)  # that is what a server means by it

    def _take(self, reading: Reading, todo: list[Growing], prefix: Prefix, meter: Meter) -> bool:
        """Take in an event; whether more of the response is wanted."""
        prefix.learn(reading.prompt_ids if self.route.token_ids else None, None)
        meter.report(reading.usage)
        for delta in reading.deltas:
            if not 0 <= delta.index < len(todo):
                raise UnusableResponseError(f"The server sent text {delta.index} of {len(todo)} that were asked for.")
            child = todo[delta.index]
            meter.draw(child.take(delta))
            self.show(child)
        if self.spent:
            for child in todo:
                child.cut("budget")
            return False
        unwanted = any(child.surplus or (child.stopped and not self.route.stops and not child.closed) for child in todo)
        return not (unwanted and all(child.over for child in todo))

    def _make_resumable(self, child: Growing, error: TransientError) -> None:
        """See to it that another attempt can go on from what came. Raises ``error`` where none can."""
        if not child.drawn or child.over:
            return
        child.make_whole()
        if self.route.continues:
            return
        if self.on_token is not None:
            error.args = (f"{error} What was shown of the text cannot be continued by this server.",)
            raise error
        child.restart()

    def _full(self) -> bool:
        """Whether the context has no room for another token."""
        context, count = self.server.capabilities.context, self.prefix.count
        return context is not None and count is not None and count >= context

    def _fitting(self, prefix: Prefix, room: int | None) -> int | None:
        """``room`` (None: any) as far as the context goes; None leaves it to the server."""
        context = self.server.capabilities.context
        if context is not None:
            left = max(1, context - prefix.guess)
            return left if room is None else min(room, left)
        return LONGEST if room is None and self.route.path != CHAT else room

    def show(self, child: Growing) -> None:
        """Hand on what is new of a child's text."""
        if self.on_token is not None and (fresh := child.fresh()):
            self.on_token(self.children.index(child), fresh)

    def _charge_cached(self) -> None:
        """Charge the positions of the prompt that were found in the cache and never billed to us: once."""
        prefix = self.prefix
        if self._used and self.route.caches and prefix.count is not None:
            self.ledger.charge(cached=max(0, prefix.count - prefix.paid - prefix.computed))
            prefix.paid = max(prefix.paid, prefix.count)


def _first(errors: BaseExceptionGroup) -> BaseException:
    """One of the errors that ended a group of tasks."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _each(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
