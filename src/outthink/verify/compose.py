"""Verifiers made of verifiers: product, mixture, threshold, and one for lines on the way with one for finished ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.together import together
from outthink.lm.protocol import Branch
from outthink.verify.checked import Checked
from outthink.verify.likelihood import Likelihood
from outthink.verify.needs import refuse_relative
from outthink.verify.odds import log_mean
from outthink.verify.protocol import Verifier


class Product:
    """The product of weights, each to its power: log-weights add up, times ``powers`` (1 where not given).

    One part that rules a line out does so for all, whatever its power above 0. A line is accepted where the parts are
    all at 0 and would all accept that. Raises UserError for no parts, or powers that are not one per part and above 0.
    """

    def __init__(self, *parts: Verifier, powers: Sequence[float] | None = None) -> None:
        self.parts, self.powers = parts, _weights("powers", parts, powers)
        self.name = "*".join(part.name for part in parts)
        self.sound = any(part.sound for part in parts)
        self.partial = all(part.partial for part in parts)

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        for part in self.parts:
            part.require(question)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        rows = await _scores(self.parts, question, branches, ledger)
        return [math.fsum(p * s for p, s in zip(self.powers, row, strict=True)) for row in zip(*rows, strict=True)]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score == 0.0 and all(part.accepts(0.0) for part in self.parts)


class Mixture:
    """The weighted mean of weights: the log of the sum of share x exp(log-weight). ``shares`` are normalised; equal
    ones where not given.

    It accepts nothing. Raises UserError for no parts, or shares that are not one per part and above 0.
    """

    sound = False

    def __init__(self, *parts: Verifier, shares: Sequence[float] | None = None) -> None:
        weights = _weights("shares", parts, shares)
        self.parts, self.shares = parts, [weight / math.fsum(weights) for weight in weights]
        self.name = "+".join(part.name for part in parts)
        self.partial = all(part.partial for part in parts)

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        for part in self.parts:
            part.require(question)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        rows = await _scores(self.parts, question, branches, ledger)
        return [log_mean(row, self.shares) for row in zip(*rows, strict=True)]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return False


class Threshold:
    """Rules out what ``part`` scores below ``at`` (nats), and accepts what it scores at or above ``accept``, if given.

    With ``hard`` all that is left weighs the same.
    """

    sound = False

    def __init__(self, part: Verifier, at: float = -math.inf, *, accept: float = math.inf, hard: bool = False) -> None:
        if math.isnan(at) or math.isnan(accept) or accept < at:
            raise UserError(f"Threshold at={at}, accept={accept}: both must be numbers, accept not below at.")
        self.part, self.at, self.accept, self.hard = part, at, accept, hard
        self.name, self.partial = f"{part.name}>={at:g}", part.partial

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        self.part.require(question)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        scores = await self.part.score(question, branches, ledger)
        return [-math.inf if score < self.at else 0.0 if self.hard else score for score in scores]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return score > -math.inf and (score >= self.accept or (not self.hard and self.part.accepts(score)))


class Staged:
    """``process`` scores lines that are on the way, and ``outcome`` those that have reached an answer or ended."""

    partial = True

    def __init__(self, process: Verifier, outcome: Verifier) -> None:
        self.process, self.outcome, self.sound = process, outcome, outcome.sound
        self.name = f"{process.name},{outcome.name}"

    def require(self, question: Question) -> None:
        """See `Verifier.require`."""
        self.process.require(question)
        self.outcome.require(question)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        finished = [branch.ended or _answered(question, branch) for branch in branches]
        scores = dict.fromkeys(branches, 0.0)
        for judge, stage in ((self.process, False), (self.outcome, True)):
            if part := [branch for branch, done in zip(branches, finished, strict=True) if done is stage]:
                scores |= zip(part, await judge.score(question, part, ledger), strict=True)
        return [scores[branch] for branch in branches]

    def accepts(self, score: float) -> bool:
        """See `Verifier.accepts`."""
        return self.outcome.accepts(score)


def for_steps(verifier: Verifier | None) -> Verifier:
    """Who scores unfinished lines: ``verifier`` where it can. Of a product or mixture the parts that can do so until a
    line is finished, and then all; the likelihood until then where there are none, or ``verifier`` is None. Raises
    CapabilityError for one that compares lines with each other.
    """
    if verifier is None:
        return Likelihood()
    refuse_relative(verifier)
    return verifier if verifier.partial else Staged(_of_steps(verifier) or Likelihood(), verifier)


def _of_steps(verifier: Verifier) -> Verifier | None:
    """What of it can judge lines that are on the way; None where nothing can."""
    if verifier.partial:
        return verifier
    if isinstance(verifier, Checked):
        inner = _of_steps(verifier.part)
        return None if inner is None else Checked(inner)
    if not isinstance(verifier, Product | Mixture):
        return None
    weights = verifier.powers if isinstance(verifier, Product) else verifier.shares
    found = [(_of_steps(part), weight) for part, weight in zip(verifier.parts, weights, strict=True)]
    parts = [(part, weight) for part, weight in found if part is not None]
    if not parts:
        return None
    kept, powers = [part for part, _ in parts], [weight for _, weight in parts]
    return Product(*kept, powers=powers) if isinstance(verifier, Product) else Mixture(*kept, shares=powers)


def _answered(question: Question, branch: Branch) -> bool:
    text = branch.full_text
    return question.parse(text[: text.rfind("\n") + 1]) is not None


async def _scores(
    parts: Sequence[Verifier], question: Question, branches: Sequence[Branch], ledger: Ledger
) -> list[list[float]]:
    return await together(part.score(question, branches, ledger) for part in parts)


def _weights(what: str, parts: Sequence[Verifier], weights: Sequence[float] | None) -> list[float]:
    found = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if not parts or len(found) != len(parts) or not all(0 < weight < math.inf for weight in found):
        raise UserError(f"{what}={weights!r} for {len(parts)} verifiers: give one number above 0 for each of them.")
    return found
