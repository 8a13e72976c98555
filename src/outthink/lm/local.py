"""Our engine behind the `LM` protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

from outthink.core.budget import Ledger
from outthink.core.errors import BranchClosedError, PromptError, SamplingError
from outthink.core.question import Prompt
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.engine.checks import check_options, check_prompt, check_tokens
from outthink.engine.engine import Engine
from outthink.engine.sequence import Extend, Score, Task
from outthink.engine.sequence import Prompt as EnginePrompt
from outthink.engine.sequence import Sequence as EngineSequence
from outthink.engine.thread import EngineThread
from outthink.lm.branch import BaseBranch
from outthink.lm.protocol import Branch, OnToken
from outthink.lm.reply import Reply
from outthink.models.tokenizer import Tokenizer


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
        self._thread, self._tokenizer, self._namespace = thread, tokenizer, namespace

    @property
    def engine(self) -> Engine:
        return self._thread.engine

    def with_sampling(self, sampling: Sampling) -> LocalLM:
        """The same model, ledger and tree with other default sampling."""
        return LocalLM(
            self._thread,
            self._tokenizer,
            self.ledger,
            sampling,
            name=self.name,
            tree=self.tree,
            namespace=self._namespace,
        )

    def with_ledger(self, ledger: Ledger) -> LocalLM:
        """The same model, sampling and tree on another bill."""
        return LocalLM(
            self._thread,
            self._tokenizer,
            ledger,
            self.sampling,
            name=self.name,
            tree=self.tree,
            namespace=self._namespace,
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, the begin token included where the tokenizer or template has one."""
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, add_special_tokens=True)
        if all(isinstance(item, int) for item in prompt):
            return [int(item) for item in prompt]  # type: ignore[arg-type]
        messages: list[Any] = list(prompt)
        return self._tokenizer.encode(self._tokenizer.render_chat(messages), add_special_tokens=False)

    async def root(self, prompt: Prompt) -> LocalBranch:
        """See `LM.root`."""
        tokens = self.encode(prompt)
        check_prompt(tokens, self.engine.max_positions, self._tokenizer.vocab_size)
        sequence = await self._open(lambda: self.engine.open_root(tokens, self._namespace))
        return LocalBranch(self, None, self.tree.child(), mix(0, 0), sequence, EnginePrompt(len(tokens), len(tokens)))

    async def _open(self, make: Callable[[], EngineSequence]) -> EngineSequence:
        """A sequence made on the stepping thread; closed again where nobody waits for it any more."""
        reply = Reply[EngineSequence](lambda sequence: self._submit(lambda: self.engine.close(sequence)))
        self._submit(lambda: reply.send(make()))
        return await reply.wait()

    def _submit(self, command: Callable[[], None]) -> None:
        self._thread.submit(command)


class LocalBranch(BaseBranch):
    """A branch whose KV lives in the engine."""

    def __init__(
        self,
        lm: LocalLM,
        parent: LocalBranch | None,
        thought: Thought,
        key: int,
        sequence: EngineSequence,
        prompt: EnginePrompt,
    ) -> None:
        super().__init__(parent, thought, key)
        self._lm, self._sequence, self._prompt = lm, sequence, prompt
        self._tasks: set[Task] = set()

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`."""
        self.refuse_if_closed("extend")
        if not isinstance(n, SupportsIndex) or n < 0:
            raise SamplingError(f"n={n!r} is out of range: it must be a whole number of at least 0.")
        if n == 0:
            return []
        until, sampling = until or Until(), sampling or self._lm.sampling
        check_options(sampling, until, self._lm._tokenizer.vocab_size)
        keys, engine = self.next_keys(n), self._lm.engine
        thoughts = [self.thought.child() for _ in keys]  # filled in as the children end, so that progress can be seen
        try:
            grown = await self._run(
                lambda done, failed: Extend(
                    self._sequence,
                    self._lm.ledger,
                    done,
                    failed,
                    self._prompt,
                    keys=keys,
                    until=until,
                    sampling=sampling,
                    limit=engine.max_positions,
                    on_token=None if on_token is None else _guarded(on_token, failed),
                    on_end=lambda sequence: _record(thoughts, sequence),
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
        return await self._run(
            lambda done, failed: Score(self._sequence, self._lm.ledger, done, failed, self._prompt, tokens=tokens)
        )

    async def feed(self, text: str | Sequence[int]) -> LocalBranch:
        """See `Branch.feed`."""
        self.refuse_if_closed("feed")
        tokens, engine = self._tokens_of(text), self._lm.engine
        self._check_room(tokens)
        (key,) = self.next_keys(1)
        sequence = await self._lm._open(lambda: engine.open_child(self._sequence, tokens))
        child = LocalBranch(self._lm, self, self.thought.child(), key, sequence, self._prompt)
        child.tokens = tuple(tokens)
        child.text = child.completion = self._lm._tokenizer.decode(tokens)
        child.record()
        return child

    async def close(self) -> None:
        """See `Branch.close`."""
        if not self.closed:
            await super().close()
            self._lm._submit(self._close_now)

    def _close_now(self) -> None:
        for task in list(self._tasks):
            self._lm.engine.cancel(task)
            task.failed(BranchClosedError("The branch was closed while it was being extended or scored."))
        self._lm.engine.close(self._sequence)

    async def _run(self, make: Callable[[Callable[..., None], Callable[[BaseException], None]], Extend | Score]) -> Any:
        """Start a task on the engine and wait for its result; cancelling the wait cancels the task."""
        engine, submit = self._lm.engine, self._lm._submit

        def discard(_: Any) -> None:
            if isinstance(task, Extend):
                submit(partial(_close_all, engine, task.children))

        def done(result: Any) -> None:
            self._tasks.discard(task)
            reply.send(result)

        def failed(error: BaseException) -> None:
            self._tasks.discard(task)
            reply.fail(error)
            submit(lambda: engine.cancel(task))

        reply = Reply[Any](discard)
        task = make(done, failed)
        self._tasks.add(task)
        submit(lambda: engine.start(task))
        try:
            return await reply.wait()
        except asyncio.CancelledError:
            self._tasks.discard(task)
            submit(lambda: engine.cancel(task))
            raise

    def _child(self, sequence: EngineSequence, key: int, thought: Thought) -> LocalBranch:
        child = LocalBranch(self._lm, self, thought, key, sequence, self._prompt)
        generation = sequence.generation
        assert generation is not None
        child.tokens = tuple(sequence.tokens[generation.start :])
        child.log_probs = tuple(generation.log_probs)
        child.sample_log_probs = tuple(generation.sample_log_probs)
        child.top_log_probs = tuple(generation.top_log_probs)
        child.text = generation.text.decode(errors="replace")
        child.finish = generation.finish
        child.ended = isinstance(generation.stop, int) and generation.stop in self._lm.engine.vocabulary.eos_ids
        child.completion = generation.completion
        child.record()
        return child

    def _tokens_of(self, text: str | Sequence[int]) -> list[int]:
        tokens = self._lm._tokenizer.encode(text) if isinstance(text, str) else list(text)
        check_tokens(tokens, self._lm._tokenizer.vocab_size)
        return tokens

    def _check_room(self, tokens: Sequence[int]) -> None:
        length = len(self._sequence.tokens) + len(tokens)
        if length > self._lm.engine.max_positions:
            raise PromptError(
                f"{len(tokens):,} more tokens make {length:,}, and {self._lm.engine.max_positions:,} positions is the "
                "most that this model and its page pool hold."
            )


def _record(thoughts: Sequence[Thought], child: EngineSequence) -> None:
    """Write what a child became into its thought, ``finish`` last: others read it meanwhile."""
    generation = child.generation
    assert generation is not None
    thought = thoughts[generation.index]
    thought.text, thought.tokens = generation.text.decode(errors="replace"), len(generation.log_probs)
    thought.log_prob = sum(generation.log_probs)
    thought.finish = generation.finish


def _close_all(engine: Engine, sequences: Sequence[EngineSequence]) -> None:
    for sequence in sequences:
        engine.close(sequence)


def _guarded(on_token: OnToken, failed: Callable[[BaseException], None]) -> OnToken:
    """``on_token`` such that an error of its own ends the request that it belongs to, and no other."""

    def shown(index: int, text: str) -> None:
        try:
            on_token(index, text)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the caller's, and reaches the caller
            failed(error)

    return shown
