"""Several models as one: any of them can go on from what any other wrote, in one tree and on one bill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import BranchClosedError
from outthink.core.question import Prompt
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.lm.branch import Hold
from outthink.lm.protocol import LM, Branch, OnToken


class JointLM:
    """An `LM` of several. The first leads: ledger, sampling and tree are its own, and it writes unless told otherwise.

    The others draw on random numbers of their own, by default without the ``logit_bias`` of ``sampling``, which speaks
    of the leader's vocabulary. Each reads the prompt and what another wrote with its own tokenizer, and pays for that.
    """

    def __init__(self, *lms: LM) -> None:
        first = lms[0]
        self.name = "+".join(lm.name for lm in lms)
        self.ledger, self.sampling, self.tree = first.ledger, first.sampling, first.tree
        self.lms = [first, *(lm.with_ledger(first.ledger) for lm in lms[1:])]
        if len({id(thread) for lm in self.lms if (thread := getattr(lm, "thread", None)) is not None}) > 1:
            first.ledger.take_turns()

    @property
    def offers(self) -> frozenset[str] | None:
        """What all of them offer, of those that say; see `outthink.lm.needs`."""
        said = [offers for lm in self.lms if (offers := getattr(lm, "offers", None)) is not None]
        return frozenset.intersection(*said) if said else None

    def with_sampling(self, sampling: Sampling) -> JointLM:
        """The same models, ledger and tree with other default sampling."""
        return JointLM(self.lms[0].with_sampling(sampling), *self.lms[1:])

    def with_ledger(self, ledger: Ledger) -> JointLM:
        """The same models, sampling and tree on another bill."""
        return JointLM(self.lms[0].with_ledger(ledger), *self.lms[1:])

    async def root(self, prompt: Prompt) -> JointBranch:
        """See `LM.root`. The others read the prompt once they are asked for something."""
        return JointBranch(self, None, _Ways(prompt, 0, await self.lms[0].root(prompt)))

    def sampling_of(self, writer: int, sampling: Sampling | None) -> Sampling:
        """What model ``writer`` draws from where ``sampling`` was asked for."""
        asked = sampling or (self.sampling if writer == 0 else replace(self.sampling, logit_bias={}))
        return asked if writer == 0 else replace(asked, seed=mix(asked.seed, writer))


class _Ways:
    """One place of the tree as the models see it: a branch for each that was there, of whom ``author`` wrote it, and
    the tokens that it was handed and has not computed.
    """

    def __init__(self, prompt: Prompt, author: int, written: Branch, above: _Ways | None = None) -> None:
        self.prompt, self.author, self.written = prompt, author, written
        self.open, self.unread = {author: written}, {author: 0}
        self.opening = asyncio.Lock()
        self.closed = False
        self.hold = Hold(None if above is None else above.hold)


class JointBranch:
    """A branch that the model `by` goes on from. What was written is that of the author; see `Branch`."""

    def __init__(self, lm: JointLM, parent: JointBranch | None, ways: _Ways, writer: int = 0) -> None:
        self.parent, self.writer = parent, writer
        self._lm, self._ways, written = lm, ways, ways.written
        self.thought: Thought = written.thought
        self.tokens, self.text, self.completion = written.tokens, written.text, written.completion
        self.log_probs, self.sample_log_probs = written.log_probs, written.sample_log_probs
        self.top_log_probs, self.finish, self.ended = written.top_log_probs, written.finish, written.ended

    @property
    def author(self) -> int:
        """The number of the model that wrote this."""
        return self._ways.author

    @property
    def closed(self) -> bool:
        return self._ways.closed

    @property
    def full_text(self) -> str:
        """See `Branch.full_text`."""
        return self.text if self.parent is None else self.parent.full_text + self.text

    @property
    def namespace(self) -> str:
        """Whose prefixes in the cache it may find: those that the author's may."""
        return getattr(self._ways.written, "namespace", "")

    @property
    def unread(self) -> int:
        """How many tokens of other authors its writer has still to read before it can go on, at most; the prompt is
        not counted.
        """
        return self._ways.unread.get(self.writer, 0)

    def by(self, writer: int) -> JointBranch:
        """The same branch, to be extended, scored and fed by model ``writer``; its children are too."""
        other = copy(self)
        other.writer = writer
        return other

    async def ready(self) -> JointBranch:
        """This branch once its writer has been handed the text so far. It computes nothing.

        Where several branches go on at once, call it on one after another: a model's random numbers depend on the
        order in which it is handed texts.
        """
        await self._way()
        return self

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`."""
        way = await self._way()
        try:
            drawn = await way.extend(n, until, self._lm.sampling_of(self.writer, sampling), on_token)
        finally:
            self._adopt(way)
        self._ways.unread[self.writer] = 0
        return [self._child(child) for child in drawn]

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Branch.score`."""
        return await (await self._way()).score(text)

    async def feed(self, text: str | Sequence[int]) -> Branch:
        """See `Branch.feed`."""
        way = await self._way()
        child = await way.feed(text)
        self._adopt(way)
        return self._child(child)

    @property
    def tokenizer(self) -> Any:
        """The author's, whose ``tokens`` these are."""
        return self._ways.written.tokenizer

    async def aside(self, ledger: Ledger) -> Branch:
        """See `Branch.aside`; it is the writer that is asked."""
        return await (await self._way()).aside(ledger)

    def when_released(self, action: Callable[[], None]) -> None:
        """See `Branch.when_released`."""
        self._ways.hold.when_released(action)

    async def close(self) -> None:
        """See `Branch.close`."""
        if not self._ways.closed:
            self._ways.closed = True
            self._ways.hold.let_go()
        for way in self._ways.open.values():
            await way.close()

    async def __aenter__(self) -> Branch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _child(self, written: Branch) -> JointBranch:
        return JointBranch(self._lm, self, _Ways(self._ways.prompt, self.writer, written, self._ways), self.writer)

    def _adopt(self, way: Branch) -> None:
        """Record what grew from ``way`` below this branch: what a model was handed is no thought of its own."""
        for thought in list(way.thought.children) if way.thought is not self.thought else ():
            thought.move(self.thought)

    async def _way(self) -> Branch:
        """The writer's own branch of this place, opened at need below the nearest that it has."""
        ways, writer = self._ways, self.writer
        async with ways.opening:
            if ways.closed:
                raise BranchClosedError("A closed joint branch was used; close it only when no more is wanted of it.")
            if writer not in ways.open:
                opened, unread = await self._handed_over()
                opened.thought.move(None)
                ways.unread[writer] = unread + len(opened.tokens)
                ways.open[writer] = opened
                if ways.closed:
                    await opened.close()
                    raise BranchClosedError("The branch was closed while another model was handed its text.")
            return ways.open[writer]

    async def _handed_over(self) -> tuple[Branch, int]:
        """A branch of the writer for this place, and what was unread of the one that it is below."""
        text, at = "", self
        while at.parent is not None:
            text, at = at.text + text, at.parent
            if not at.closed and self.writer in at._ways.open:
                return await at._ways.open[self.writer].feed(text), at._ways.unread[self.writer]
        if at is self:
            return await self._lm.lms[self.writer].root(self._ways.prompt), 0
        if not at.closed:
            return await (await at.by(self.writer)._way()).feed(text), 0
        root = await self._lm.lms[self.writer].root(self._ways.prompt)
        root.thought.move(None)
        async with root:
            return await root.feed(text), 0
