"""The `LM` protocol. A strategy sees these two things and nothing of pages, batches, threads or HTTP.

Every implementation must pass `outthink.lm.laws.check_lm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from outthink.core.budget import Ledger
from outthink.core.question import Prompt
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought

OnToken = Callable[[int, str], None]
"""Called with (child index, new text) as tokens are drawn. Must be quick, and may run on another thread."""


class Branch(Protocol):
    """A node of the tree of thought: an immutable token prefix. Its KV stays in the engine until it is closed.

    ``tokens`` are its own, after its parent's; ``text`` is what they spell, stop string included; ``completion`` is
    without it. ``log_probs`` are the model's own log-probabilities of ``tokens`` (nats); ``sample_log_probs`` those
    under the distribution that they were drawn from. ``top_log_probs`` holds, for each token, the pairs asked for by
    ``Sampling.top_logprobs``. ``finish`` is ``stop``, ``length`` or ``budget``; None for roots and fed branches.
    ``ended`` says that the model's end token was drawn. ``thought`` is its place in the recorded tree.
    """

    @property
    def parent(self) -> Branch | None: ...

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def text(self) -> str: ...

    @property
    def completion(self) -> str: ...

    @property
    def log_probs(self) -> Sequence[float]: ...

    @property
    def sample_log_probs(self) -> Sequence[float]: ...

    @property
    def top_log_probs(self) -> Sequence[Sequence[tuple[int, float]]]: ...

    @property
    def finish(self) -> str | None: ...

    @property
    def ended(self) -> bool: ...

    @property
    def thought(self) -> Thought: ...

    @property
    def tokenizer(self) -> Any:
        """What ``tokens`` are ids of, a `outthink.models.Tokenizer`; None where that is not at hand."""
        ...

    @property
    def full_text(self) -> str:
        """The text from below the root down to here: everything that was written after the prompt."""
        ...

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """``n`` children, each grown until ``until`` says so. They share this branch's KV.

        The k-th child ever made of this branch draws the same tokens whenever, wherever and beside whatever it is made,
        given ``sampling.seed``. When the ledger runs out, children come back with what they have and ``finish`` =
        ``budget``; this never raises for want of budget. Cancelling the call frees what it grew.
        Raises BranchClosedError.
        """
        ...

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """The model's log-probability (nats) of each token of ``text`` after this branch.

        Fewer than asked where the ledger ran out. Raises BranchClosedError.
        """
        ...

    async def feed(self, text: str | Sequence[int]) -> Branch:
        """A child with given text: a tool's result, a forced phrase. Nothing is computed before it is needed."""
        ...

    async def aside(self, ledger: Ledger) -> Branch:
        """This branch for a verifier's use: what is asked of it is charged to ``ledger``, stands in no recorded tree,
        and changes nothing of what the branch's own children will be. It is never closed itself; what it grows is.
        Raises BranchClosedError.
        """
        ...

    def when_released(self, action: Callable[[], None]) -> None:
        """Have ``action`` called once this branch and all below it are closed; at once where they are."""
        ...

    async def close(self) -> None:
        """Give the branch up. Its own KV is free within a step; children and the recorded thought live on."""
        ...

    async def __aenter__(self) -> Branch: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LM(Protocol):
    """A language model bound to one ledger, one default ``sampling`` and one recorded tree."""

    @property
    def name(self) -> str: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def sampling(self) -> Sampling: ...

    @property
    def tree(self) -> Thought: ...

    async def root(self, prompt: Prompt) -> Branch:
        """The branch of a prompt. Raises PromptError for one that is empty or does not fit. Computes nothing yet."""
        ...

    def with_sampling(self, sampling: Sampling) -> LM:
        """The same model, ledger and tree with other default sampling."""
        ...

    def with_ledger(self, ledger: Ledger) -> LM:
        """The same model, sampling and tree on another bill: a slice of this one, for part of the work."""
        ...
