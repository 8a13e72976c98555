"""The tree that a search over tokens grows: look at the law of the next token, take the chosen ones, close the rest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import Branch

FORCE = 100.0  # a logit bias that decides which token is drawn; servers allow no more
T = TypeVar("T")


@dataclass(eq=False)
class Hypothesis:
    """A line of ``length`` tokens and its log-probability (nats).

    ``law``: what may come next, as pairs of token and log-probability, likeliest first; ``full`` where nothing fits.
    ``drawn``: the branches one token further on, by token.
    """

    branch: Branch
    log_prob: float = 0.0
    length: int = 0
    law: Sequence[tuple[int, float]] = ()
    drawn: dict[int, Branch] = field(default_factory=dict)
    full: bool = False

    def score(self, length_penalty: float) -> float:
        """log-probability / ((5 + length) / 6) ** penalty (Wu et al. 2016, arXiv:1609.08144, equation 14)."""
        return self.log_prob / ((5 + self.length) / 6) ** length_penalty


@dataclass(frozen=True)
class Step:
    """One more token after ``line``."""

    line: Hypothesis
    token: int
    log_prob: float


class TokenTree:
    """The open branches of a search over tokens. An async context manager that leaks nothing.

    The law after a branch is seen by drawing from it, the likeliest token; that draw is the branch of this token. Other
    tokens are drawn by force, from the same logits: no position is computed twice.
    """

    def __init__(self, root: Branch, ledger: Ledger, peek: int) -> None:
        self._open: set[Branch] = {root}
        self._ledger = ledger
        self._peek = Sampling(temperature=0.0, top_logprobs=peek)

    async def look(self, lines: Iterable[Hypothesis]) -> None:
        """Write the law of the next token into each line, all at once; into the first ones where the budget ends."""
        await _together(self._draw(line, self._peek) for line in self._affordable(lines))

    async def take(self, steps: Iterable[Step]) -> dict[Step, Hypothesis]:
        """The lines that the steps lead to, less the last ones where the budget ends. Closes the rest, unless
        that is all."""
        steps = list(dict.fromkeys(steps))
        forced = self._affordable(step for step in steps if step.token not in step.line.drawn)
        await _together(
            self._draw(step.line, Sampling(temperature=0.0, logit_bias={step.token: FORCE})) for step in forced
        )
        made = {
            step: Hypothesis(branch, step.line.log_prob + step.log_prob, step.line.length + 1)
            for step in steps
            if (branch := step.line.drawn.get(step.token)) is not None
        }
        if not made:
            return made
        kept = {line.branch for line in made.values()}
        for branch in self._open - kept:
            branch.thought.fate = branch.thought.fate or (None if branch.thought.children else "outscored")
            await branch.close()
        self._open &= kept
        return made

    async def write_to_the_end(self, line: Hypothesis, most: float) -> Hypothesis:
        """``line`` gone on with, likeliest token by likeliest token, for at most ``most`` tokens, at least one."""
        until = Until(None if most == math.inf else max(1, int(most)))
        [branch] = await line.branch.extend(1, until, Sampling(temperature=0.0))
        self._open.add(branch)
        return Hypothesis(branch, line.log_prob + math.fsum(branch.log_probs), line.length + len(branch.tokens))

    def _affordable(self, wanted: Iterable[T]) -> list[T]:
        """As many as there are tokens left, so that it is not a matter of timing who gets the last ones."""
        wanted = list(wanted)
        return wanted if self._ledger.tokens_left == math.inf else wanted[: int(self._ledger.tokens_left)]

    async def _draw(self, line: Hypothesis, sampling: Sampling) -> None:
        [branch] = await line.branch.extend(1, Until(1), sampling)
        self._open.add(branch)
        if branch.tokens:
            line.drawn[branch.tokens[0]] = branch
            line.law = line.law or branch.top_log_probs[0]
        line.full = branch.finish == "length" and not branch.tokens

    async def __aenter__(self) -> TokenTree:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for branch in self._open:
            await branch.close()


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; where one fails or the wait is cancelled, cancel the others and wait until they are gone."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
