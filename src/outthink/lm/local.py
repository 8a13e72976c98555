"""Our engine behind the `LM` protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, ParamSpec, SupportsIndex

from outthink.core.budget import Ledger
from outthink.core.errors import PromptError, SamplingError
from outthink.core.progress import Progress
from outthink.core.question import Prompt
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.engine.checks import check_options, check_prompt, check_tokens
from outthink.engine.engine import Engine
from outthink.engine.sequence import Extend, OnDraw, Score
from outthink.engine.sequence import Prompt as EnginePrompt
from outthink.engine.sequence import Sequence as EngineSequence
from outthink.engine.thread import EngineThread
from outthink.lm.branch import BaseBranch
from outthink.lm.handle import Handle, open_handle
from outthink.lm.protocol import Branch, OnToken
from outthink.models.tokenizer import Tokenizer

P = ParamSpec("P")
LONG_PROMPT = 4096  # characters from which a prompt takes a caller's event loop longer than a change of threads does


class LocalLM:
    """A model in our engine, bound to a ledger, a default sampling and a tree. Many share one engine thread."""

    def __init__(
        self,
        thread: EngineThread,
        tokenizer: Tokenizer,
        ledger: Ledger,
        sampling: Sampling | None = None,
        *,
        name: str = "local",
        tree: Thought | None = None,
        namespace: str = "",
    ) -> None:
        self.name, self.ledger, self.sampling = name, ledger, sampling or Sampling()
        self.tree = tree or Thought()
        self.thread, self.tokenizer, self._namespace = thread, tokenizer, namespace

    @property
    def engine(self) -> Engine:
        return self.thread.engine

    def with_sampling(self, sampling: Sampling) -> LocalLM:
        """The same model, ledger and tree with other default sampling."""
        return self._with(sampling=sampling)

    def with_ledger(self, ledger: Ledger) -> LocalLM:
        """The same model, sampling and tree on another bill."""
        return self._with(ledger=ledger)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, the begin token included where the tokenizer or template has one."""
        return encode_prompt(self.tokenizer, prompt)

    async def root(self, prompt: Prompt) -> LocalBranch:
        """See `LM.root`. Raises EngineError where the engine has stopped."""
        tokens = await encoded_prompt(self.tokenizer, prompt)
        check_prompt(tokens, self.engine.max_positions, self.tokenizer.vocab_size)
        handle = await self._open(lambda: self.engine.open_root(tokens, self._namespace))
        return LocalBranch(self, None, self.tree.child(), mix(0, 0), handle, EnginePrompt(len(tokens), len(tokens)))

    async def _open(self, make: Callable[[], EngineSequence]) -> Handle:
        return await open_handle(self.thread, self.engine, make)

    def _with(self, **changes: Ledger | Sampling) -> LocalLM:
        other = copy(self)
        vars(other).update(changes)
        return other


class LocalBranch(BaseBranch):
    """A branch whose KV lives in the engine."""

    _lm: LocalLM

    def __init__(
        self,
        lm: LocalLM,
        parent: LocalBranch | None,
        thought: Thought,
        key: int,
        handle: Handle,
        prompt: EnginePrompt,
    ) -> None:
        super().__init__(parent, thought, key)
        self._lm, self._handle, self._prompt = lm, handle, prompt

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Branch.tokenizer`."""
        return self._lm.tokenizer

    @property
    def namespace(self) -> str:
        """Whose prefixes in the cache it may find."""
        return self._lm._namespace

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        on_draw: OnDraw | None = None,
        progress: Progress | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`. ``on_draw`` is told of each token before the text that it completes; see `Extend`. An
        ``on_token`` that is a `Progress` counts the tokens, as does ``progress`` beside one that is not.
        """
        self.refuse_if_closed("extend")
        if not isinstance(n, int | SupportsIndex) or n < 0:  # the protocol itself is slow to ask
            raise SamplingError(f"n={n!r} is out of range: it must be a whole number of at least 0.")
        if n == 0:
            return []
        until, sampling = until or Until(), self.sampling_of(sampling)
        check_options(sampling, until, self.tokenizer.vocab_size)
        constraint = sampling.constraint
        state = None if constraint is None else self.state_of(constraint)
        keys, engine = self.next_keys(n), self._lm.engine
        on_text = on_token
        if isinstance(on_token, Progress):
            progress, on_text = on_token, None
        thoughts = [self.thought.child() for _ in keys]  # filled in as the children end, so that progress can be seen
        try:
            grown = await self._handle.run(
                lambda sequence, ends: Extend(
                    sequence,
                    self._lm.ledger,
                    *ends,
                    self._prompt,
                    keys=keys,
                    until=until,
                    sampling=sampling,
                    limit=engine.max_positions,
                    state=state,
                    on_draw=None if on_draw is None else _guarded(on_draw, ends[1]),
                    on_token=None if on_text is None else _guarded(on_text, ends[1]),
                    progress=progress,
                    on_end=lambda child: _record(thoughts, child),
                )
            )
        except asyncio.CancelledError:
            for thought in thoughts:
                thought.finish = thought.finish or "cancelled"
            raise
        return [self._child(*grew) for grew in zip(grown, keys, thoughts, strict=True)]

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Branch.score`."""
        self.refuse_if_closed("score")
        tokens = self._tokens_of(text)
        if not tokens:
            return []
        self._check_room(tokens)
        return await self._handle.run(
            lambda sequence, ends: Score(sequence, self._lm.ledger, *ends, self._prompt, tokens=tokens)
        )

    async def score_top(self, tokens: Sequence[int], top: int) -> list[tuple[float, list[tuple[int, float]]]]:
        """Like `score`, with the ``top`` likeliest tokens and their log-probabilities at each place beside it."""
        self.refuse_if_closed("score")
        check_tokens(tokens, self._lm.tokenizer.vocab_size)
        if not tokens:
            return []
        self._check_room(tokens)
        tops: list[list[tuple[int, float]]] = []
        values = await self._handle.run(
            lambda sequence, ends: Score(
                sequence, self._lm.ledger, *ends, self._prompt, tokens=tokens, top=top, tops=tops
            )
        )
        return list(zip(values, tops, strict=True))

    async def feed(self, text: str | Sequence[int]) -> LocalBranch:
        """See `Branch.feed`."""
        self.refuse_if_closed("feed")
        tokens, engine = self._tokens_of(text), self._lm.engine
        self._check_room(tokens)
        (key,) = self.next_keys(1)
        handle = await self._lm._open(lambda: engine.open_child(self._handle.sequence, tokens))
        child = LocalBranch(self._lm, self, self.thought.child(), key, handle, self._prompt)
        child.tokens = tuple(tokens)
        child.text = child.completion = self.tokenizer.decode(tokens)
        child.record()
        return child

    async def close(self) -> None:
        """See `Branch.close`."""
        if not self.closed:
            await super().close()
            self._handle.close()

    def _child(self, sequence: EngineSequence, key: int, thought: Thought) -> LocalBranch:
        handle = Handle(self._lm.thread, self._lm.engine, sequence)
        child = LocalBranch(self._lm, self, thought, key, handle, self._prompt)
        generation = sequence.generation
        assert generation is not None
        child.tokens = tuple(sequence.tokens[generation.start :])
        child.log_probs = tuple(generation.log_probs)
        child.sample_log_probs = tuple(generation.sample_log_probs)
        child.top_log_probs = tuple(generation.top_log_probs)
        child.text = thought.text  # as `_record` wrote it
        child.finish = generation.finish
        child.ended = isinstance(generation.stop, int) and generation.stop in self._lm.engine.vocabulary.eos_ids
        child.completion = child.text if generation.stop_at is None else generation.completion
        constraint = generation.extend.sampling.constraint
        if constraint is not None and generation.state is not None:
            child.keep(constraint, generation.state, generation.kept)
        return child

    def _tokens_of(self, text: str | Sequence[int]) -> list[int]:
        tokens = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        check_tokens(tokens, self.tokenizer.vocab_size)
        return tokens

    def _check_room(self, tokens: Sequence[int]) -> None:
        length = len(self._handle.sequence.tokens) + len(tokens)
        if length > self._lm.engine.max_positions:
            raise PromptError(
                f"{len(tokens):,} more tokens make {length:,}, and {self._lm.engine.max_positions:,} positions is the "
                "most that this model and its page pool hold."
            )


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, the begin token included where the tokenizer or template has one."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special_tokens=True)
    if all(isinstance(item, int) for item in prompt):
        return [int(item) for item in prompt]  # type: ignore[arg-type]
    messages: list[Any] = list(prompt)
    return tokenizer.encode(tokenizer.render_chat(messages), add_special_tokens=False)


async def encoded_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """What `encode_prompt` returns; a long prompt is read in a thread, so that others on this event loop go on."""
    size = len(prompt)
    if not isinstance(prompt, str):
        size += sum(len(text) for each in prompt if isinstance(each, Mapping) for text in map(str, each.values()))
    if size < LONG_PROMPT:
        return encode_prompt(tokenizer, prompt)
    return await asyncio.to_thread(encode_prompt, tokenizer, prompt)


def _record(thoughts: Sequence[Thought], child: EngineSequence) -> None:
    """Write what a child became into its thought, ``finish`` last: others read it meanwhile."""
    generation = child.generation
    assert generation is not None
    thought = thoughts[generation.index]
    thought.text, thought.tokens = generation.text.decode(errors="replace"), len(generation.log_probs)
    thought.log_prob = sum(generation.log_probs)
    thought.finish = generation.finish


def _guarded(tell: Callable[P, None], failed: Callable[[BaseException], None]) -> Callable[P, None]:
    """``tell`` such that an error of its own ends the request that it belongs to, and no other."""

    def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the caller's, and reaches the caller
            failed(error)

    return shown
