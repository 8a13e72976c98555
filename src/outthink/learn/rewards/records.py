"""Sampled lines with labels, as plain records that go into a file and come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from outthink.tasks.problem import Problem


@dataclass(frozen=True)
class StepLabel:
    """The label of the prefix ``text[:end]`` of a line: the share of its continuations that end right.

    ``rollouts`` is the number of continuations that ``value`` was measured on, 0 where it was inferred.
    """

    end: int
    value: float
    rollouts: int


@dataclass(frozen=True)
class LabelledLine:
    """A sampled line: its text, whether the model ended it (else it was cut), and whether its answer is right.

    ``steps`` label prefixes that end with a line feed, in their order; none where nothing was found out about them.
    """

    text: str
    ended: bool
    right: bool
    steps: tuple[StepLabel, ...] = ()

    def to_json(self) -> dict[str, Any]:
        steps = [[step.end, round(step.value, 6), step.rollouts] for step in self.steps]
        return {"text": self.text, "ended": self.ended, "right": self.right, "steps": steps}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LabelledLine:
        return cls(raw["text"], raw["ended"], raw["right"], tuple(StepLabel(*step) for step in raw["steps"]))

    def step_ends(self) -> list[int]:
        """Where its steps end, in characters: after every line feed."""
        return [at + 1 for at, character in enumerate(self.text) if character == "\n"]


@dataclass(frozen=True)
class LabelledProblem:
    """What was found out about the problem at place ``index`` of a stream.

    ``prompt`` and ``decoded`` are the positions that were read and drawn for it: what the labels cost. A position of
    the prompt counts once, whether the cache happened to hold it or not, so that the figure does not depend on what
    else the engine was doing.
    """

    index: int
    problem: Problem
    lines: tuple[LabelledLine, ...]
    prompt: int
    decoded: int

    @property
    def tokens(self) -> int:
        """The positions read and drawn for these labels."""
        return self.prompt + self.decoded

    def to_json(self) -> dict[str, Any]:
        problem = {field.name: getattr(self.problem, field.name) for field in fields(Problem)}
        lines = [line.to_json() for line in self.lines]
        tokens = {"prompt": self.prompt, "decoded": self.decoded}
        return {"index": self.index, "problem": problem, "lines": lines, "tokens": tokens}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LabelledProblem:
        stated: dict[str, Any] = {**raw["problem"], "steps": tuple(raw["problem"]["steps"])}
        problem = Problem(**stated)
        lines = tuple(map(LabelledLine.from_json, raw["lines"]))
        return cls(raw["index"], problem, lines, raw["tokens"]["prompt"], raw["tokens"]["decoded"])
