"""The nodes of a tree of steps, and what comes of extending one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from outthink.lm.protocol import Branch
from outthink.reason.population import line_log_prob


@dataclass(eq=False)
class Node:
    """A line of whole steps. ``score`` is the verifier's log-weight of the line so far, -inf where it is ruled out.

    ``whole``: nothing can follow it; ``cut``: the budget ended within it; ``closed``: the search gave it up.
    ``length``: its tokens after the prompt. ``count``: how many draws gave it.
    """

    branch: Branch
    parent: Node | None = None
    depth: int = 0
    length: int = 0
    score: float = 0.0
    whole: bool = False
    cut: bool = False
    closed: bool = False
    count: int = 1
    children: list[Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The score as a number in [0, 1]."""
        return math.exp(min(self.score, 0.0))

    @property
    def open(self) -> bool:
        """Whether the search may go on from here: it is not whole, cut, ruled out or given up."""
        return not (self.whole or self.cut or self.closed or self.score == -math.inf)

    @property
    def fit(self) -> bool:
        """Whether it is of use: the search may go on from here, or it is whole and not ruled out."""
        return self.open or (self.whole and self.score > -math.inf)

    @property
    def answered(self) -> bool:
        """Whether it is a whole line that gives an answer."""
        return self.whole and self.branch.thought.answer is not None

    @property
    def log_prob(self) -> float:
        """The model's log-probability of the line after the prompt, in nats."""
        return line_log_prob(self.branch)


@dataclass(frozen=True)
class Expansion:
    """What came of extending ``node``: one entry a draw, equal ones the same child. ``line``: the only draw and the
    steps after it, where it was gone on with to the end, and ``start`` the branch that this began from.
    """

    node: Node
    draws: list[Node]
    line: list[Node]
    start: Branch | None = None

    @property
    def children(self) -> list[Node]:
        """The children drawn, each once, in the order of the draws."""
        return list(dict.fromkeys(self.draws))

    @property
    def live(self) -> list[Node]:
        """The children from which the search may go on."""
        return [child for child in self.children if child.open]

    @property
    def fit(self) -> list[Node]:
        """The children of use: those and the whole ones that are not ruled out."""
        return [child for child in self.children if child.fit]


def same_step(a: Node, b: Node) -> bool:
    """Whether two children of one node are the same step: the same text, over in the same way."""
    return (a.branch.text, a.branch.ended, a.cut) == (b.branch.text, b.branch.ended, b.cut)
