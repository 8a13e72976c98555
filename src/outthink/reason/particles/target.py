"""What particles are weighed by: a verifier's scores of partial lines, or a potential on token prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.protocol import LM, Branch
from outthink.posterior.named import open_potential
from outthink.posterior.potential import Potential, Prefix
from outthink.verify import Verifier
from outthink.verify.likelihood import Likelihood
from outthink.verify.needs import check_verifier, refuse_relative


class Target(Protocol):
    """The unnormalised law that particles are led to: base law x exp(log-potential), on prefixes and on whole lines.

    The base law is the one that lines are sampled from, unless ``corrected``: then it is the model's own, and weights
    take in the ratio of the two.
    """

    corrected: bool

    async def log_potentials(self, branches: Sequence[Branch], whole: Sequence[bool]) -> list[float]:
        """The log-potential of each branch (nats); ``whole`` says which of them nothing will follow."""
        ...

    def sampling(self, branch: Branch) -> Sampling | None:
        """What the branch's children are to be drawn from; None for the model's default sampling."""
        ...


class Verified:
    """The verifier's score of a line is its log-potential.

    One that judges only finished lines says nothing of those on the way: their log-potential is 0.
    """

    corrected = False

    def __init__(self, question: Question, verifier: Verifier | None, ledger: Ledger) -> None:
        self.question, self.verifier, self.ledger = question, verifier or Likelihood(), ledger
        refuse_relative(self.verifier)
        self.verifier.require(question)

    async def log_potentials(self, branches: Sequence[Branch], whole: Sequence[bool]) -> list[float]:
        """See `Target.log_potentials`."""
        judged = [b for b, w in zip(branches, whole, strict=True) if w or self.verifier.partial]
        scores = await self.verifier.score(self.question, judged, self.ledger) if judged else []
        found = dict(zip(judged, scores, strict=True))
        return [found.get(branch, 0.0) for branch in branches]

    def sampling(self, branch: Branch) -> Sampling | None:
        """See `Target.sampling`."""
        return None


class Weighted:
    """A `Potential` of token prefixes."""

    corrected = False

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    async def log_potentials(self, branches: Sequence[Branch], whole: Sequence[bool]) -> list[float]:
        """See `Target.log_potentials`."""
        return [self.potential.log_potential(prefix_of(b, w)) for b, w in zip(branches, whole, strict=True)]

    def sampling(self, branch: Branch) -> Sampling | None:
        """See `Target.sampling`."""
        return None


def goal_of(
    question: Question, lm: LM, potential: Potential | str | None, verifier: Verifier | None, ledger: Ledger
) -> Weighted | Verified:
    """The target of ``potential``, by its name or itself; without one, of ``verifier``, by default the likelihood.

    Raises CapabilityError where ``lm`` lacks what the verifier needs, and what `open_potential` raises.
    """
    if potential is not None:
        return Weighted(open_potential(potential))
    found = Verified(question, verifier, ledger)
    check_verifier(lm, found.verifier)
    return found


def prefix_of(branch: Branch, whole: bool) -> Prefix:
    """Everything that was written after the prompt."""
    parts, at = [], branch
    while at.parent is not None:
        parts.append(at.tokens)
        at = at.parent
    return Prefix(tuple(token for part in reversed(parts) for token in part), branch.full_text, whole)
