"""Reward models in our engine: they read a policy's tree as it grows, on the policy's own stepping thread.

Every branch of the policy that is judged has its twin here, a sequence over the reward model's own pages that continues
the twin of the branch's parent. So a child costs its own tokens alone, and all that is judged at one time is one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from outthink.core.budget import Ledger
from outthink.core.question import Prompt
from outthink.core.thought import Thought
from outthink.core.together import together
from outthink.engine.checks import check_prompt
from outthink.engine.engine import Costs, Engine
from outthink.engine.sequence import Judge
from outthink.engine.sequence import Prompt as EnginePrompt
from outthink.engine.thread import EngineThread
from outthink.lm.handle import Handle, open_handle
from outthink.lm.local import encode_prompt, encoded_prompt
from outthink.lm.model import open_backend
from outthink.lm.protocol import Branch
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.opened import OpenedModel
from outthink.models.tokenizer import Tokenizer
from outthink.scheduling import Limits

if TYPE_CHECKING:
    from outthink.models.checkpoint import LoadedModel


@dataclass(eq=False)
class _Twin:
    """What was read of one branch. ``tokens``: the line down to here; ``steps``: the logits after its own step ends.

    ``last`` is the logit after the last token of all, None where there is none yet; ``at_end``: that is a step's end.
    ``handle`` holds its pages; None where it added no tokens, or could not be paid.
    """

    above: _Twin | None
    tokens: Sequence[int]
    handle: Handle | None
    prompt: EnginePrompt
    steps: Sequence[float] = ()
    last: float | None = None
    at_end: bool = False


@dataclass(eq=False)
class _Place:
    """Where the twin of a branch will be; the lock sees to it that only one coroutine makes it."""

    twin: _Twin | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RewardModel:
    """A loaded reward model, stepped by ``thread``. Any number of problems and users share it at once.

    ``kind`` is ``process`` or ``outcome``. Make one with `load_reward`.
    """

    def __init__(self, loaded: LoadedModel | OpenedModel, thread: EngineThread, engine: Engine) -> None:
        self.loaded, self.thread, self.engine = loaded, thread, engine
        self.tokenizer: Tokenizer = loaded.tokenizer
        self._places: WeakKeyDictionary[Thought, _Place] = WeakKeyDictionary()

    @property
    def name(self) -> str:
        return self.loaded.source.name

    @property
    def kind(self) -> str:
        """``process`` or ``outcome``."""
        return self.loaded.config.reward or "process"

    def check(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt; PromptError where it is empty or does not fit."""
        return self._checked(encode_prompt(self.tokenizer, prompt))

    async def read(self, prompt: Prompt, branches: Sequence[Branch], ledger: Ledger) -> list[list[float]]:
        """What the model says of each branch as a solution of ``prompt``: its logits after every whole step of the
        line, then after the last token of a line that the policy ended.

        Of a line without a whole step the only logit is that after its last token. There are fewer where the ledger
        runs out (then it may be none), and of a line that outgrows the model's context only what fits is read. What was
        read before costs nothing. All else is charged to ``ledger`` as the verifier's. Pages are kept until the branch
        and all below it are closed. Raises PromptError, and EngineError where the engine has stopped.
        """
        tokens, paying = self._checked(await encoded_prompt(self.tokenizer, prompt)), ledger.for_verifier()
        pin = await self._open_root(tokens, getattr(branches[0], "namespace", "") if branches else "")
        try:
            return await together(self._read(branch, pin, paying) for branch in branches)
        finally:
            assert pin.handle is not None
            pin.handle.close()

    def close(self) -> None:
        """Stop the thread, and with it every engine on it; requests in flight end with an EngineError."""
        self.thread.close()

    def _checked(self, tokens: list[int]) -> list[int]:
        check_prompt(tokens, self.engine.max_positions, self.tokenizer.vocab_size)
        return tokens

    async def _read(self, branch: Branch, pin: _Twin, ledger: Ledger) -> list[float]:
        path: list[Branch] = [branch]
        while (above := path[-1].parent) is not None:
            path.append(above)
        twin: _Twin | None = None
        for at in reversed(path):
            place = self._places.setdefault(at.thought, _Place())
            async with place.lock:
                if place.twin is None:
                    place.twin = await (self._twin_root(at, pin) if twin is None else self._twin(at, twin, pin, ledger))
                if place.twin is None:  # too little is left to read on
                    return [] if twin is None else _logits(twin, ended=False)
                twin = place.twin
        return [] if twin is None else _logits(twin, branch.ended)

    async def _open_root(self, tokens: Sequence[int], namespace: str) -> _Twin:
        handle = await open_handle(self.thread, self.engine, lambda: self.engine.open_root(tokens, namespace))
        return _Twin(None, (), handle, EnginePrompt(len(tokens), len(tokens)))

    async def _twin_root(self, branch: Branch, pin: _Twin) -> _Twin:
        assert pin.handle is not None
        twin = await self._open_root(pin.handle.sequence.tokens, pin.handle.sequence.namespace)
        assert twin.handle is not None
        branch.when_released(twin.handle.close)
        return twin

    async def _twin(self, branch: Branch, above: _Twin, pin: _Twin, ledger: Ledger) -> _Twin | None:
        """The twin of ``branch`` below that of its parent; None where it could not be paid."""
        tokens, base = self._tokens(branch), _base(above, pin)
        while list(tokens[: len(base.tokens)]) != list(base.tokens):  # another tokenizer may join what was apart
            assert base.above is not None
            base = _base(base.above, pin)
        assert base.handle is not None
        room = self.engine.max_positions - base.prompt.length
        tokens = tokens[:room]
        new = tokens[len(base.tokens) :]
        if not new:
            return _Twin(above, tokens, None, above.prompt, (), above.last, above.at_end)
        values, sequence = await base.handle.run(
            lambda parent, ends: Judge(parent, ledger, *ends, base.prompt, tokens=new)
        )
        if sequence is None:
            return None
        ends = [self._ends_step(token) for token in new]
        handle = Handle(self.thread, self.engine, sequence)
        branch.when_released(handle.close)
        steps = [value for value, end in zip(values, ends, strict=True) if end]
        return _Twin(base, tokens, handle, base.prompt, steps, values[-1], ends[-1])

    def _tokens(self, branch: Branch) -> Sequence[int]:
        """The line of ``branch`` in this model's tokens: as they were drawn where the tokenizers are the same."""
        parts, same = [], True
        at = branch
        while at.parent is not None:
            parts.append(at.tokens)
            same = same and (not at.tokens or _same(at.tokenizer, self.tokenizer))
            at = at.parent
        if same:
            return [token for part in reversed(parts) for token in part]
        return [*self.tokenizer.encode(branch.full_text), *(self.tokenizer.eos_ids[:1] if branch.ended else ())]

    def _ends_step(self, token: int) -> bool:
        return not self.tokenizer.is_special(token) and b"\n" in self.tokenizer.token_bytes(token)


def load_reward(
    directory: Path, beside: EngineThread | None = None, limits: Limits | None = None, backend: str = "auto"
) -> RewardModel:
    """Load the reward model in ``directory`` (see `outthink.models.rewards.find_reward`).

    ``beside``: the thread of a policy, whose device it shares; it is loaded there once, however often it is asked for,
    and stops with it. By default it gets a thread of its own, to be stopped by `RewardModel.close`.
    Raises what `outthink.load` raises.
    """
    if beside is None:
        loaded, engine = _open(directory, "cpu", limits, backend)
        return RewardModel(loaded, EngineThread(engine), engine)

    def join() -> RewardModel:
        device = str(getattr(beside.engine.backend, "device", "cpu"))
        threads = getattr(beside.engine.backend, "threads", None)
        loaded, engine = _open(directory, device, limits, backend, threads)
        beside.add(engine)
        return RewardModel(loaded, beside, engine)

    return beside.companion((RewardModel, directory.resolve()), join)


def _open(
    directory: Path, device: str, limits: Limits | None, backend: str, threads: int | None = None
) -> tuple[LoadedModel | OpenedModel, Engine]:
    loaded, computed = open_backend(directory, "auto", device, backend, None, threads=threads)
    config = loaded.config
    costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
    return loaded, Engine(computed, loaded.tokenizer, costs, config.max_positions, limits)


def _base(twin: _Twin, pin: _Twin) -> _Twin:
    """The nearest twin from here up whose pages are held; the prompt's, where none is."""
    at: _Twin | None = twin
    while at is not None and (at.handle is None or at.handle.closed):
        at = at.above
    return pin if at is None else at


def _logits(twin: _Twin, ended: bool) -> list[float]:
    parts, at = [], twin
    while at is not None:
        parts.append(at.steps)
        at = at.above
    logits = [logit for part in reversed(parts) for logit in part]
    if twin.last is not None and not twin.at_end and (ended or not logits):
        logits.append(twin.last)
    return logits


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, Tokenizer) and isinstance(b, Tokenizer) and a.fingerprint == b.fingerprint)
