"""What every implementation of `Branch` shares: text, records, keys, the rule that a closed branch refuses use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.constraint import Constraint, ConstraintState
from outthink.core.errors import BranchClosedError
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.lm.protocol import Branch, OnToken


class Hold:
    """Who still needs a branch: itself until it is closed, and every child of which that can be said."""

    def __init__(self, above: Hold | None) -> None:
        self._count, self._actions = 1, list[Callable[[], None]]()
        self._above = above if above is not None and above._count else None
        if self._above is not None:
            self._above._count += 1

    def when_released(self, action: Callable[[], None]) -> None:
        """Have ``action`` called once nobody needs the branch; at once where that is so."""
        if self._count:
            self._actions.append(action)
        else:
            action()

    def let_go(self) -> None:
        """One fewer needs it, and where it was the last, one fewer the branch above."""
        hold: Hold | None = self
        while hold is not None:
            hold._count -= 1
            if hold._count:
                return
            actions, hold._actions = hold._actions, []
            for action in actions:
                action()
            hold = hold._above


class BaseBranch(ABC):
    """Book-keeping of a branch; subclasses add what computes, and keep the `LM` that they belong to in ``_lm``."""

    _lm: Any

    def __init__(self, parent: BaseBranch | None, thought: Thought, key: int) -> None:
        self.parent, self.thought, self.key = parent, thought, key
        self.tokens: Sequence[int] = ()
        self.text = self.completion = ""
        self.log_probs: Sequence[float] = ()
        self.sample_log_probs: Sequence[float] = ()
        self.top_log_probs: Sequence[Sequence[tuple[int, float]]] = ()
        self.finish: str | None = None
        self.ended = False
        self.closed = False
        self._num_children = 0
        self._kept: tuple[Constraint, ConstraintState, int] | None = None
        self._hold = Hold(None if parent is None else parent._hold)

    @abstractmethod
    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`."""

    @abstractmethod
    async def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Branch.score`."""

    @abstractmethod
    async def feed(self, text: str | Sequence[int]) -> Branch:
        """See `Branch.feed`."""

    @property
    def tokenizer(self) -> Any:
        """See `Branch.tokenizer`."""
        return None

    @property
    def vocabulary(self) -> Any:
        """What constraints are told of the tokens."""
        return self.tokenizer

    async def aside(self, ledger: Ledger) -> Branch:
        """See `Branch.aside`."""
        self.refuse_if_closed("ask aside")
        view = copy(self)
        view._lm = self._lm.with_ledger(ledger)
        if view._lm.sampling.constraint is not None:  # a verifier writes what it likes
            view._lm = view._lm.with_sampling(replace(view._lm.sampling, constraint=None))
        view.thought, view._num_children, view._hold, view._kept = Thought(), 0, Hold(None), None
        return view

    def when_released(self, action: Callable[[], None]) -> None:
        """See `Branch.when_released`."""
        self._hold.when_released(action)

    @property
    def full_text(self) -> str:
        """The text from below the root down to here."""
        parts, branch = [], self
        while branch.parent is not None:
            parts.append(branch.text)
            branch = branch.parent
        return "".join(reversed(parts))

    def next_keys(self, n: int) -> list[int]:
        """The random keys of the next ``n`` children, in the order in which they are asked for."""
        first = self._num_children
        self._num_children += n
        return [mix(self.key, ordinal) for ordinal in range(first, first + n)]

    def sampling_of(self, asked: Sampling | None) -> Sampling:
        """How an extension samples that ``asked`` for this: under the constraint of the `LM` unless it has its own."""
        own: Sampling = self._lm.sampling
        if asked is None or asked.constraint is not None or own.constraint is None:
            return asked or own
        return replace(asked, constraint=own.constraint)

    def keep(self, constraint: Constraint, state: ConstraintState, count: int) -> None:
        """Note the ``state`` of ``constraint`` after the first ``count`` of the branch's own tokens, so that it is not
        found out again. The branch owns it from now on.
        """
        self._kept = (constraint, state, count)

    def state_of(self, constraint: Constraint) -> ConstraintState:
        """A copy of the state of ``constraint`` after everything that was written below the root.

        Raises SamplingError where that is not of its language, or where it was made for another tokenizer.
        """
        line: list[BaseBranch] = [self]
        while line[-1].parent is not None and not line[-1]._keeps(constraint):
            line.append(line[-1].parent)
        state: ConstraintState | None = None
        for branch in reversed(line):
            count = 0
            if branch._kept is not None and branch._keeps(constraint):
                _, state, count = branch._kept
            elif state is None:
                state = constraint.begin(self.vocabulary)
            else:
                state = state.copy()
            for token in branch.tokens[count:]:
                state.advance(token)
            branch.keep(constraint, state, len(branch.tokens))
        assert state is not None
        return state.copy()

    def _keeps(self, constraint: Constraint) -> bool:
        return self._kept is not None and self._kept[0] is constraint

    def record(self) -> None:
        """Copy what was grown into the thought."""
        thought = self.thought
        thought.text, thought.tokens, thought.finish = self.text, len(self.tokens), self.finish
        thought.log_prob = sum(self.log_probs)

    def refuse_if_closed(self, verb: str) -> None:
        """Raise BranchClosedError where the branch was closed."""
        if self.closed:
            raise BranchClosedError(f"Cannot {verb} a closed branch; close it only when no more is wanted of it.")

    async def close(self) -> None:
        """Give the branch up; closing twice does nothing."""
        if not self.closed:
            self.closed = True
            self._hold.let_go()

    async def __aenter__(self) -> Branch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
