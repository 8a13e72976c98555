"""An OpenAI-compatible server behind the `LM` protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, SupportsIndex, TypeVar, overload

from outthink.core.budget import Ledger
from outthink.core.errors import BranchClosedError, CapabilityError, PromptError, SamplingError
from outthink.core.question import Prompt
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.engine.checks import check_options
from outthink.lm.branch import BaseBranch
from outthink.lm.protocol import Branch, OnToken
from outthink.lm.remote.capabilities import knows_own_law
from outthink.lm.remote.grow import grow
from outthink.lm.remote.growing import Growing
from outthink.lm.remote.prefix import Prefix
from outthink.lm.remote.scoring import score
from outthink.lm.remote.server import Server
from outthink.lm.remote.thread import LoopThread

T = TypeVar("T")
ANY_TOKEN = 1 << 31  # vocabularies are not known here; the server refuses ids outside its own


class RemoteLM:
    """A model on a server, bound to a ledger, a default sampling and a tree. Many share one connection."""

    def __init__(
        self,
        thread: LoopThread,
        server: Server,
        ledger: Ledger,
        sampling: Sampling | None = None,
        tree: Thought | None = None,
        chat: bool = False,
    ) -> None:
        self.ledger, self.sampling, self.tree = ledger, sampling or Sampling(), tree or Thought()
        self._thread, self._server, self._chat = thread, server, chat
        self.name = server.capabilities.model

    @property
    def offers(self) -> frozenset[str]:
        """Which of `outthink.lm.needs.NEEDS` this model meets, for the prompts that `Model.chat` speaks of."""
        capabilities = self._server.capabilities
        route = capabilities.chat if self._chat else capabilities.completions
        return frozenset() if route is None else route.offers(self.sampling)

    def with_sampling(self, sampling: Sampling) -> RemoteLM:
        """The same model, ledger and tree with other default sampling."""
        return RemoteLM(self._thread, self._server, self.ledger, sampling, self.tree, self._chat)

    def with_ledger(self, ledger: Ledger) -> RemoteLM:
        """The same model, sampling and tree on another bill."""
        return RemoteLM(self._thread, self._server, ledger, self.sampling, self.tree, self._chat)

    async def root(self, prompt: Prompt) -> RemoteBranch:
        """See `LM.root`. Raises CapabilityError for a prompt that this server has no route for."""
        if not prompt:
            raise PromptError("The prompt is empty: give at least one token of text.")
        prefix, capabilities = self._prefix(prompt), self._server.capabilities
        length, context = prefix.count or len(prefix.ids or ()), capabilities.context
        if context is not None and length >= context:
            raise PromptError(f"The prompt has {length:,} tokens, and the server's context is {context:,}. Shorten it.")
        return RemoteBranch(self, None, self.tree.child(), mix(0, 0), prefix)

    def _prefix(self, prompt: Prompt) -> Prefix:
        route, name = self._server.capabilities.completions, self._server.name
        if isinstance(prompt, str):
            if route is not None:
                return Prefix(text=prompt)
            return Prefix(({"role": "user", "content": prompt},), text="")
        if isinstance(prompt[0], SupportsIndex):
            if route is None or not route.token_ids:
                raise CapabilityError(f"{name} takes no token ids; give the prompt as text.")
            ids = tuple(int(token) for token in prompt)  # type: ignore[arg-type]
            return Prefix(ids=ids, count=len(ids))
        if self._server.capabilities.chat is None:
            raise CapabilityError(f"{name} takes no chat messages; give the prompt as text.")
        return Prefix(tuple(dict(message) for message in prompt), text="")  # type: ignore[arg-type]


class RemoteBranch(BaseBranch):
    """A branch that is a prefix to be sent again. The server may or may not still hold its KV.

    What a server does not tell, it does not make up: ``log_probs`` and their like raise CapabilityError where they are
    read, where the server gives none.
    """

    def __init__(self, lm: RemoteLM, parent: RemoteBranch | None, thought: Thought, key: int, prefix: Prefix) -> None:
        super().__init__(parent, thought, key)
        self._lm, self._prefix = lm, prefix
        self._running: set[Future[Any]] = set()

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`. Raises CapabilityError, before anything is sent, for what the server does not offer."""
        self.refuse_if_closed("extend")
        if not isinstance(n, SupportsIndex) or n < 0:
            raise SamplingError(f"n={n!r} is out of range: it must be a whole number of at least 0.")
        if n == 0:
            return []
        lm: RemoteLM = self._lm
        server, ledger = lm._server, lm.ledger
        until, sampling = until or Until(), sampling or lm.sampling
        check_options(sampling, until, ANY_TOKEN)
        route = server.route(self._prefix)
        route.check(sampling, until, server.name)
        self._refuse_to_continue()
        if ledger.flops_left < math.inf and not server.flops:
            raise CapabilityError(
                f"A budget in FLOPs was given, and what a token costs at {server.name} is not known: give "
                "connect(parameters=...), the number of its weights, or a budget in tokens or seconds."
            )
        exact = route.token_ids and not self._prefix.messages
        keys = self.next_keys(n)
        growing = [Growing(until, exact, key) for key in keys]
        thoughts = [self.thought.child() for _ in keys]
        try:
            await self._run(grow(server, self._prefix, growing, until, sampling, ledger, on_token))
        finally:
            for thought, grown in zip(thoughts, growing, strict=True):
                thought.text, thought.tokens = grown.text, len(grown.drawn)
                thought.finish = grown.finish or "cancelled"
        return [self._child(grown, thought, sampling) for grown, thought in zip(growing, thoughts, strict=True)]

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Branch.score`. Raises CapabilityError where the server gives no log-probabilities of a prompt."""
        self.refuse_if_closed("score")
        self._refuse_to_continue()
        spelled, ids = await self._read(text)
        if not spelled and not ids:
            return []
        return await self._run(score(self._lm._server, self._prefix, spelled, ids, self._lm.ledger))

    async def feed(self, text: str | Sequence[int]) -> RemoteBranch:
        """See `Branch.feed`."""
        self.refuse_if_closed("feed")
        spelled, ids = await self._read(text)
        (key,) = self.next_keys(1)
        server = self._lm._server
        prefix = self._prefix.then(spelled, ids, None if ids is None else len(ids), drawn=False)
        child = RemoteBranch(self._lm, self, self.thought.child(), key, prefix)
        if ids is None:
            child.tokens = (server.vocabulary.id_of(spelled),) if not server.vocabulary.foreign and spelled else ()
            if not isinstance(text, str):
                child.tokens = tuple(text)
        else:
            child.tokens = ids
        child.text = child.completion = spelled
        child.record()
        return child

    async def close(self) -> None:
        """See `Branch.close`. Drops the connections of what is being grown or scored from here."""
        if not self.closed:
            await super().close()
            for future in list(self._running):
                future.cancel()

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work`` on the connection's thread; cancelling the wait cancels it."""
        future = self._lm._thread.start(work)
        self._running.add(future)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed and not (task is not None and task.cancelling()):
                raise BranchClosedError("The branch was closed while it was being extended or scored.") from None
            raise
        finally:
            self._running.discard(future)

    async def _read(self, text: str | Sequence[int]) -> tuple[str, tuple[int, ...] | None]:
        """Text and, where they are the server's and known, ids of what is to be scored or fed."""
        server = self._lm._server
        vocabulary = server.vocabulary
        if not isinstance(text, str):
            if any(not isinstance(token, SupportsIndex) for token in text):
                raise PromptError(f"Token ids must be whole numbers, not {text!r:.80}.")
            ids = tuple(int(token) for token in text)
            if not vocabulary.foreign:
                return vocabulary.text(ids), None
            return "".join(vocabulary.spell(token) for token in ids), ids
        if self._prefix.text is None and text:
            return text, await self._run(server.ids_of(text))
        return text, None

    def _refuse_to_continue(self) -> None:
        """Raise CapabilityError where there is a text to go on from and the server cannot."""
        prefix, server = self._prefix, self._lm._server
        if prefix.messages and prefix.text and not server.route(prefix).continues:
            raise CapabilityError(
                f"{server.name} cannot go on from a partly written answer: it has no /completions, and its "
                "/chat/completions does not honour continue_final_message. Use a strategy that samples whole lines."
            )

    def _child(self, grown: Growing, thought: Thought, sampling: Sampling) -> RemoteBranch:
        server = self._lm._server
        vocabulary, route = server.vocabulary, server.route(self._prefix)
        ids = grown.ids
        prefix = self._prefix.then(grown.text, ids, len(grown.drawn), drawn=True)
        child = RemoteBranch(self._lm, self, thought, grown.key, prefix)
        if ids is not None:
            child.tokens = tuple(ids)
            for token in grown.drawn:
                vocabulary.note(token.id or 0, token.piece or "")
        else:
            child.tokens = tuple(vocabulary.id_of(token.piece or "") for token in grown.drawn)
        child.text, child.completion, child.finish, child.ended = (
            grown.text,
            grown.completion,
            grown.finish,
            grown.ended,
        )
        self._weigh(child, grown, sampling, route.top)
        thought.log_prob = math.nan if isinstance(child.log_probs, _Missing) else sum(child.log_probs)
        return child

    def _weigh(self, child: RemoteBranch, grown: Growing, sampling: Sampling, top: int) -> None:
        """Hand a child the log-probabilities that the server gave."""
        name = self._lm._server.name
        if top < 0 or any(token.log_prob is None for token in grown.drawn):
            child.log_probs = child.sample_log_probs = child.top_log_probs = _Missing(
                f"{name} gave no log-probabilities."
            )
            return
        child.log_probs = tuple(min(0.0, token.log_prob or 0.0) for token in grown.drawn)
        if sampling.greedy:
            child.sample_log_probs = (0.0,) * len(grown.drawn)
        elif knows_own_law(sampling):
            child.sample_log_probs = child.log_probs
        else:
            child.sample_log_probs = _Missing(
                f"{name} gives log-probabilities under the model's own law, and not under this sampling: use "
                "temperature 1 without top_k, top_p, min_p, penalties or logit_bias."
            )
        if sampling.top_logprobs:
            child.top_log_probs = tuple(self._top(token.top, sampling.top_logprobs) for token in grown.drawn)

    def _top(self, top: Sequence[tuple[str | int, float]], count: int) -> tuple[tuple[int, float], ...]:
        vocabulary = self._lm._server.vocabulary
        return tuple(
            (token if isinstance(token, int) else vocabulary.id_of(token), min(0.0, log_prob))
            for token, log_prob in top[:count]
        )


class _Missing(Sequence[Any]):
    """Numbers that a server does not give: reading them is an error, so that nobody weighs by their absence."""

    def __init__(self, why: str) -> None:
        self._why = why

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        raise CapabilityError(self._why)

    def __len__(self) -> int:
        raise CapabilityError(self._why)
