"""Recorded lines behind the `LM` protocol, so that one pool of samples serves every strategy and every N.

A branch's k-th child depends on the seed and the prompt alone, so the first N recorded lines are the very lines that a
strategy would draw from the model with that N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Prompt
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.lm.branch import BaseBranch
from outthink.lm.protocol import Branch, OnToken


@dataclass(frozen=True)
class Recorded:
    """One sampled line: ``tokens`` is their number, ``log_prob`` the model's own of all of them (nats)."""

    text: str
    tokens: int
    log_prob: float
    finish: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ReplayLM:
    """An `LM` that returns recorded lines in their order: ``lines`` for sampling, ``greedy`` at temperature 0."""

    name = "replay"

    def __init__(
        self,
        prompt_tokens: int,
        lines: Sequence[Recorded],
        greedy: Recorded,
        ledger: Ledger | None = None,
        sampling: Sampling | None = None,
        tree: Thought | None = None,
    ) -> None:
        self.prompt_tokens, self.lines, self.greedy = prompt_tokens, lines, greedy
        self.ledger, self.sampling, self.tree = ledger or Ledger(), sampling or Sampling(), tree or Thought()

    def with_sampling(self, sampling: Sampling) -> ReplayLM:
        """The same recording, ledger and tree."""
        return ReplayLM(self.prompt_tokens, self.lines, self.greedy, self.ledger, sampling, self.tree)

    def with_ledger(self, ledger: Ledger) -> ReplayLM:
        """The same recording, sampling and tree."""
        return ReplayLM(self.prompt_tokens, self.lines, self.greedy, ledger, self.sampling, self.tree)

    async def root(self, prompt: Prompt) -> ReplayBranch:
        """The recorded prompt, whatever ``prompt`` says; charged here."""
        self.ledger.charge(prefilled=self.prompt_tokens)
        return ReplayBranch(self, None, self.tree.child(), 0)


class ReplayBranch(BaseBranch):
    """The recorded prompt, or one recorded line."""

    def __init__(self, lm: ReplayLM, parent: ReplayBranch | None, thought: Thought, key: int) -> None:
        super().__init__(parent, thought, key)
        self._lm = lm

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """The next ``n`` recorded lines. Raises CapabilityError below a line, and where the recording is at its end."""
        self.refuse_if_closed("extend")
        lm, first = self._lm, self._num_children
        if self.parent is not None or (until is not None and until != Until()):
            raise CapabilityError("A recording holds whole lines below its prompt; nothing else can be asked of it.")
        greedy = (sampling or lm.sampling).greedy
        lines = [lm.greedy] * n if greedy else lm.lines[first : first + n]
        if len(lines) < n:
            raise CapabilityError(f"The recording has {len(lm.lines)} lines; {first + n} were asked for.")
        children = []
        for line, key in zip(lines, self.next_keys(n), strict=True):
            child = ReplayBranch(lm, self, self.thought.child(), key)
            child.tokens = range(line.tokens)
            child.text = child.completion = line.text
            child.log_probs = child.sample_log_probs = (line.log_prob,)
            child.finish, child.ended = line.finish, line.finish == "stop"
            child.record()
            lm.ledger.charge(decoded=line.tokens)
            children.append(child)
        return children

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """Raises CapabilityError: a recording has no model."""
        raise CapabilityError("A recording cannot score text: it has no model.")

    async def feed(self, text: str | Sequence[int]) -> Branch:
        """Raises CapabilityError: a recording has no model."""
        raise CapabilityError("A recording cannot take text in: it has no model.")
