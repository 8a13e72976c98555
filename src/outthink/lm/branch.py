"""What every implementation of `Branch` shares: text, records, keys, the rule that a closed branch refuses use."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from outthink.core.errors import BranchClosedError
from outthink.core.rng import mix
from outthink.core.thought import Thought


class BaseBranch:
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

    async def __aenter__(self):
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
