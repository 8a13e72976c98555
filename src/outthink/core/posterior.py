"""What every strategy returns: a weighted population of answers, the tree behind it, and the bill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from outthink.core.budget import Bill
from outthink.core.thought import Thought


@dataclass(frozen=True)
class Candidate:
    """One line of thought that reached an answer. ``log_weight`` is unnormalised, in nats."""

    answer: str
    log_weight: float = 0.0
    text: str = ""
    thought: Thought | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Posterior:
    """A law over answers: candidates with equal answers pool their weights, and the weights are normalised.

    ``log_unassigned`` is the weight, on the candidates' scale, of what reached no answer: it lowers every answer's
    share. ``attempts`` counts the lines that were tried. ``confidence`` is the share of the best answer *within this
    population*: what the lines agree on, which is not in itself a probability of being right. Ties go to the answer
    that was found first.

    ``log_evidence`` is the log of the estimated mean of exp(verifier score) over lines of the model, in nats, for the
    methods that estimate it; ``log_evidence_se`` its standard error from ``evidence_runs`` independent runs, to be read
    with Student's t at ``evidence_runs`` - 1 degrees of freedom. None where there is no valid figure. ``evidence_cut``
    further runs were cut by the budget and are left out: where there are any, short lines count for too much.
    """

    candidates: tuple[Candidate, ...] = ()
    log_unassigned: float = -math.inf
    cost: Bill = field(default_factory=Bill)
    tree: Thought = field(default_factory=Thought, compare=False, repr=False)
    method: str = ""
    attempts: int = 0
    stopped: str = "finished"
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    evidence_runs: int = 0
    evidence_cut: int = 0

    @property
    def weights(self) -> dict[str, float]:
        """Answer to share, largest first; empty without answers. They sum to 1 less the unassigned share."""
        pooled: dict[str, float] = {}
        if not self.candidates or (top := max(c.log_weight for c in self.candidates)) == -math.inf:
            return pooled
        top = max(top, self.log_unassigned)
        for c in self.candidates:
            if c.log_weight > -math.inf:
                pooled[c.answer] = pooled.get(c.answer, 0.0) + math.exp(c.log_weight - top)
        total = math.fsum(pooled.values()) + math.exp(self.log_unassigned - top)
        return {a: w / total for a, w in sorted(pooled.items(), key=lambda item: -item[1])}

    @property
    def best(self) -> str | None:
        """The likeliest answer, or None where there is none."""
        return next(iter(self.weights), None)

    @property
    def confidence(self) -> float:
        """The weight of the best answer in [0, 1]; 0 where there is none."""
        return next(iter(self.weights.values()), 0.0)

    @property
    def entropy(self) -> float:
        """Entropy of the law over answers, the unassigned share counted as one of them, in nats."""
        shares = list(self.weights.values())
        shares.append(max(0.0, 1.0 - math.fsum(shares)))
        return -math.fsum(w * math.log(w) for w in shares if w > 1e-15)

    def credible_set(self, mass: float = 0.9) -> list[str]:
        """The fewest likeliest answers whose shares sum to at least ``mass``; all of them where they do not."""
        chosen, total = [], 0.0
        for answer, weight in self.weights.items():
            if total >= mass - 1e-12:
                break
            chosen.append(answer)
            total += weight
        return chosen

    @property
    def best_line(self) -> Candidate | None:
        """The heaviest candidate that gives the best answer; among equals, the first found."""
        lines = [c for c in self.candidates if c.answer == self.best]
        return max(lines, key=lambda c: c.log_weight, default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the tree as `Thought.to_json` gives it."""
        return {
            "best": self.best,
            "confidence": self.confidence,
            "entropy": self.entropy,
            "weights": self.weights,
            "unassigned": 1.0 - math.fsum(self.weights.values()),
            "method": self.method,
            "attempts": self.attempts,
            "stopped": self.stopped,
            "log_evidence": self.log_evidence if self.log_evidence != -math.inf else None,
            "log_evidence_se": self.log_evidence_se,
            "evidence_runs": self.evidence_runs,
            "evidence_cut": self.evidence_cut,
            "cost": self.cost.to_json(),
            "line": line.text if (line := self.best_line) else None,
            "tree": self.tree.to_json(),
        }
