"""How good labels are, and what they cost: files of labels against the exact step oracle, at equal rollout tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.core.errors import UserError
from outthink.core.estimate import mean
from outthink.learn.rewards.auc import auc
from outthink.learn.rewards.records import LabelledProblem
from outthink.learn.rewards.rollouts import OnProgress
from outthink.learn.rewards.store import read_labels
from outthink.learn.rewards.truth import still_right

NUM_BUDGETS = 12
# Settings under which labels are of the same problems and of the same model.
_SHARED = ("suite", "hardest", "split", "seed", "weights", "temperature")


@dataclass(frozen=True)
class Checked:
    """A label of a step beside the oracle's truth; ``value`` is the share of continuations that end right."""

    problem: int
    family: str
    value: float
    truth: bool

    @property
    def agrees(self) -> bool:
        """Whether "at least one continuation ends right" is what the oracle says."""
        return (self.value > 0) == self.truth


def compare(files: Sequence[Path], progress: OnProgress = lambda *_: None) -> dict[str, Any]:
    """Compare the labels in ``files``, each cut to the tokens that the cheapest of them cost.

    Raises UserError where they are not of the same problems and model, or hold no labels of steps.
    """
    if not files:
        raise UserError("Name at least one file of labels.")
    opened = [(file, *read_labels(file)) for file in files]
    _check_comparable(opened)
    most = min(sum(record.tokens for record in found) for _, _, found in opened)
    results = []
    for file, settings, found in opened:
        checked = [_check(record, progress, number + 1, len(found)) for number, record in enumerate(found)]
        if not any(checked):
            raise UserError(f"{file} has no labels of steps to compare.")
        points = [_point(found, checked, most * share / NUM_BUDGETS) for share in range(1, NUM_BUDGETS + 1)]
        results.append(
            {
                "file": file.name,
                "labels": settings["labels"],
                "rollouts": settings["rollouts"],
                "lines": settings["lines"],
                "points": points,
                **_whole(found, checked, most),
            }
        )
    shared = {name: opened[0][1][name] for name in (*_SHARED, "model")}
    return {"what": "labels against the exact step oracle", "tokens": most, "settings": shared, "results": results}


def _check_comparable(opened: Sequence[tuple[Path, dict[str, Any], Any]]) -> None:
    first, expected, _ = opened[0]
    for file, settings, _ in opened[1:]:
        for name in _SHARED:
            if settings[name] != expected[name]:
                raise UserError(
                    f"{file} and {first} cannot be compared: {name} is {settings[name]!r} in one and "
                    f"{expected[name]!r} in the other."
                )


def _check(record: LabelledProblem, progress: OnProgress, done: int, total: int) -> list[Checked]:
    """The labels of one problem beside the truth."""
    progress(done, total, "asking the oracle")
    problem = record.problem
    return [
        Checked(record.index, problem.family, step.value, still_right(problem, line.text[: step.end]))
        for line in record.lines
        for step in line.steps
    ]


def _affordable(found: Sequence[LabelledProblem], checked: Sequence[list[Checked]], tokens: float) -> list[Checked]:
    """The labels of the first problems that cost at most ``tokens`` together."""
    kept: list[Checked] = []
    for record, labels in zip(found, checked, strict=True):
        tokens -= record.tokens
        if tokens < 0:
            break
        kept += labels
    return kept


def _point(found: Sequence[LabelledProblem], checked: Sequence[list[Checked]], tokens: float) -> dict[str, Any]:
    """What ``tokens`` buy: the number of labels, how many agree with the oracle, and their AUC."""
    labels = _affordable(found, checked, tokens)
    area = auc([c.value for c in labels], [c.truth for c in labels], [c.problem for c in labels]) if labels else None
    return {
        "tokens": round(tokens),
        "labels": len(labels),
        "agreeing": sum(c.agrees for c in labels),
        "auc": None if area is None else area.value,
    }


def _whole(found: Sequence[LabelledProblem], checked: Sequence[list[Checked]], tokens: float) -> dict[str, Any]:
    """The figures at all of ``tokens``, with intervals."""
    labels = _affordable(found, checked, tokens)
    by_problem: dict[int, list[bool]] = {}
    for label in labels:
        by_problem.setdefault(label.problem, []).append(label.agrees)
    area = auc([c.value for c in labels], [c.truth for c in labels], [c.problem for c in labels])
    shares = [sum(own) / len(own) for own in by_problem.values()]
    good, bad = [c for c in labels if c.truth], [c for c in labels if not c.truth]
    return {
        "num_labels": len(labels),
        "problems": len(by_problem),
        "labels_per_1000_tokens": 1000 * len(labels) / tokens,
        "accuracy": mean(shares, (0.0, 1.0)).to_json() if shares else None,
        "good_called_good": sum(c.agrees for c in good) / len(good) if good else None,
        "bad_called_bad": sum(c.agrees for c in bad) / len(bad) if bad else None,
        "auc": None if area is None else area.to_json(),
        "families": {family: _family(labels, family) for family in sorted({c.family for c in labels})},
    }


def _family(labels: Sequence[Checked], family: str) -> dict[str, Any]:
    own = [c for c in labels if c.family == family]
    area = auc([c.value for c in own], [c.truth for c in own], [c.problem for c in own])
    agreeing = sum(c.agrees for c in own) / len(own)
    return {"labels": len(own), "agreeing": agreeing, "auc": None if area is None else area.value}
