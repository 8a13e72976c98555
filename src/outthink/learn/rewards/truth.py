"""What is true of sampled lines: the family's exact step oracle, at every place where a reward is read."""

from __future__ import annotations

from outthink.learn.rewards.records import LabelledLine
from outthink.tasks.problem import Problem


def still_right(problem: Problem, prefix: str) -> bool:
    """Whether a prefix that ends with a line feed can still become a right solution."""
    return problem.extendable(prefix)


def ended_right(problem: Problem, line: LabelledLine) -> bool:
    """Whether a line that was ended is a right solution, every step included."""
    # Its last line is finished: "answer: 5" does not stand for the beginning of "answer: 52".
    return line.right and problem.extendable(line.text if line.text.endswith("\n") else line.text + "\n")
