"""Many lines of thought as one tree to read: where they agree and where they part.

A vote over 64 lines is, as a record, 64 children of one prompt. Read step by step (a step is a line of text), many of
them begin alike. Sibling thoughts that begin with equal steps share them here, and steps between which nothing parts
are one passage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from outthink.core.thought import Thought


@dataclass(eq=False)
class Step:
    """A line of text, or none at the very root, and the thoughts that end with it."""

    text: str = ""
    parent: Step | None = None
    children: dict[str, Step] = field(default_factory=dict)
    thoughts: list[Thought] = field(default_factory=list)

    @property
    def lines(self) -> list[Thought]:
        """The whole lines of thought that end here: what was written and not gone on with."""
        return [thought for thought in self.thoughts if thought.finish is not None and not thought.children]

    @property
    def growing(self) -> int:
        """How many lines are being written from here on; a prompt by itself is none."""
        return sum(
            t.finish is None and not t.children and t.parent is not None and t.parent.parent is not None
            for t in self.thoughts
        )


def split_steps(text: str) -> list[str]:
    """The steps of a text: its lines; a blank line belongs to the one before it. White space at ends is dropped."""
    steps: list[str] = []
    for line in text.split("\n"):
        if line.strip():
            steps.append(line.rstrip())
        elif steps:
            steps[-1] += "\n"
    return [step.rstrip("\n") for step in steps]


def merge(tree: Thought) -> Step:
    """The steps of all thoughts below ``tree``, equal ones under the same step merged."""
    root = Step()
    stack = [(tree, root)]
    while stack:
        thought, at = stack.pop()
        for text in split_steps(thought.text):
            at = at.children.setdefault(text, Step(text, at))
        at.thoughts.append(thought)
        stack += [(child, at) for child in reversed(thought.children)]
    return root


def fate_of(thought: Thought) -> str | None:
    """Why a line ended as it did: what the strategy wrote, else a verifier's veto."""
    return thought.fate or ("rejected by the verifier" if thought.value == -math.inf else None)


def passages(
    tree: Thought, winner: Thought | None = None, answer_of: Callable[[Thought], str | None] = attrgetter("answer")
) -> list[dict[str, Any]]:
    """The merged tree as JSON values: passages, parents before children.

    A passage has ``id``, ``parent`` (an id or None), ``steps`` (its texts, with value, visits and weight where a
    thought that goes on ends there), ``lines`` (those that end with it), ``growing`` (how many are being written from
    its end on) and ``won``: whether the line ``winner`` runs through it. ``answer_of`` says what answer a line reached.
    """
    root = merge(tree)
    won = _path(root, winner)
    found: list[dict[str, Any]] = []
    stack: list[tuple[Step, int | None]] = [(root, None)]
    while stack:
        step, parent = stack.pop()
        run = list(_run(step))
        steps = [{"text": s.text, **_marks(s)} for s in run if s.text]
        last, number = run[-1], len(found)
        lines = [_line(thought, thought is winner, answer_of(thought)) for thought in last.lines]
        end = {"lines": lines, "growing": last.growing, "won": step in won}
        found.append({"id": number, "parent": parent, "steps": steps, **end})
        stack += [(child, number) for child in reversed(last.children.values())]
    return found


def condensed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that end one passage, equal ones as one with their ``count``.

    Equal are those with the same answer, fate, finish, value and visits; the winner stands alone. Where their
    ``log_prob``, ``tokens`` or ``weight`` differ, it is the pair of the least and the largest.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        key = tuple(line[name] for name in ("won", "answer", "fate", "finish", "value", "visits"))
        groups.setdefault(key, []).append(line)
    spans = ("log_prob", "tokens", "weight")
    return [
        {**group[0], "count": len(group), **{name: _span([line[name] for line in group]) for name in spans}}
        for group in groups.values()
    ]


def _span(values: list[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers or min(numbers) == max(numbers):
        return next(iter(numbers), values[0])
    return [min(numbers), max(numbers)]


def _run(step: Step) -> Iterator[Step]:
    """``step`` and those after it until something parts or a line ends."""
    yield step
    while len(step.children) == 1 and not step.lines and not step.growing:
        (step,) = step.children.values()
        yield step


def _path(root: Step, winner: Thought | None) -> set[Step]:
    """The steps from the root to where ``winner`` ends."""
    stack, path = [root], set[Step]()
    while stack and winner is not None:
        at = stack.pop()
        if winner in at.thoughts:
            step: Step | None = at
            while step is not None:
                path.add(step)
                step = step.parent
            break
        stack += at.children.values()
    return path


def _marks(step: Step) -> dict[str, Any]:
    """What a search noted of the thoughts that end with this step and go on."""
    going_on = [thought for thought in step.thoughts if thought.children]
    marks: dict[str, Any] = {}
    if values := [thought.value for thought in going_on if thought.value is not None]:
        marks["value"] = _number(max(values))
    if visits := [thought.visits for thought in going_on if thought.visits is not None]:
        marks["visits"] = sum(visits)
    if weights := [thought.weight for thought in going_on if thought.weight is not None]:
        marks["weight"] = _number(math.fsum(weights))
    return marks


def _line(thought: Thought, won: bool, answer: str | None) -> dict[str, Any]:
    """The record of a whole line of thought, as its last thought tells it."""
    parts = thought.line()
    return {
        "answer": answer,
        "fate": fate_of(thought),
        "finish": thought.finish,
        "log_prob": _number(math.fsum(part.log_prob for part in parts)),
        "tokens": sum(part.tokens for part in parts),
        "value": _number(thought.value),
        "weight": _number(thought.weight),
        "visits": thought.visits,
        "won": won,
    }


def _number(value: float | None) -> float | str | None:
    """JSON has no infinities; a value of minus infinity is a verifier's veto."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("ruled out" if value < 0 else "certain")
