"""What every implementation of `Branch` shares: text, records, keys, the rule that a closed branch refuses use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

from outthink.core.errors import BranchClosedError
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.lm.protocol import Branch, OnToken


class BaseBranch(ABC):
    """Book-keeping of a branch; subclasses add what computes."""

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
        self.closed = True

    async def __aenter__(self) -> Branch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
