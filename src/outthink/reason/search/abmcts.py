"""Adaptive-branching MCTS: go wider or deeper by Thompson sampling (AB-MCTS-A, Inoue et al. 2025, arXiv:2503.04412)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.node import Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


@dataclass
class Belief:
    """A Beta posterior over the value in [0, 1] that an action brings; Jeffreys' prior."""

    a: float = 0.5
    b: float = 0.5

    @property
    def observations(self) -> float:
        """How many values it has seen."""
        return self.a + self.b - 1.0

    def observe(self, value: float) -> None:
        """Take in a value as that share of a success."""
        self.a += value
        self.b += 1.0 - value

    def draw(self, rng: np.random.Generator) -> float:
        """A sample of the expected value."""
        return float(rng.beta(self.a, self.b))


@dataclass
class Beliefs:
    """What is believed of a line: of writing the rest anew from it, of going on below it, and of itself as a way."""

    wider: Belief = field(default_factory=Belief)
    deeper: Belief = field(default_factory=Belief)
    itself: Belief = field(default_factory=Belief)


class Thompson:
    """The beliefs of a tree, and the choice that they make."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._beliefs = rng, dict[Node, Beliefs]()

    def of(self, node: Node) -> Beliefs:
        """The beliefs about ``node``."""
        return self._beliefs.setdefault(node, Beliefs())

    def select(self, root: Node) -> Node:
        """The line to write a new rest for: at each line the choice is between that and going on below it."""
        node = root
        while ways := [child for child in node.children if child.open]:
            beliefs = self.of(node)
            if beliefs.wider.draw(self._rng) >= beliefs.deeper.draw(self._rng):
                break
            draws = [self.of(child).itself.draw(self._rng) for child in ways]
            node = ways[int(np.argmax(draws))]
        return node

    def back_up(self, node: Node, line: Sequence[Node]) -> None:
        """Take in the value of ``line``, written from ``node`` on: as "wider" there and at every step of it but the
        last, for it was drawn anew from all of them; as "deeper" at every line above.
        """
        value = line[-1].value
        for start in (node, *line[:-1]):
            self.of(start).wider.observe(value)
        for step in line:
            self.of(step).itself.observe(value)
        at = node
        while at.parent is not None:
            self.of(at).itself.observe(value)
            self.of(at.parent).deeper.observe(value)
            at = at.parent
        for thought in line[-1].branch.thought.line():
            thought.visits = (thought.visits or 0) + 1


@method(
    "ab-mcts",
    family="search",
    summary="Adaptive branching: at each line, write the rest anew or go on below it, by Thompson sampling.",
    guarantee="heuristic",
    promise="as good as the verifier's values; how wide the tree grows at each line follows from them",
    paper="Inoue et al. 2025, Wider or Deeper? Scaling LLM Inference-Time Compute with Adaptive Branching Tree "
    "Search, arXiv:2503.04412 (AB-MCTS-A, Beta posteriors); here a line's first steps are kept where the paper refines "
    "an answer by feedback",
    needs=("continuation",),
)
async def ab_mcts(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    in_flight: int = 8,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Write ``n`` lines to their end, ``in_flight`` at once, each from where Thompson sampling says; the chance in the
    choice keeps those in flight apart. A line's value is exp(score). Each answer weighs as its best line.
    """
    at_least(1, n=n, in_flight=in_flight)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        tree, written = Thompson(np.random.default_rng(lm.sampling.seed % 2**63)), 0
        while not search.accepted:
            while written < n and search.in_flight < in_flight and search.room:
                search.launch_line(tree.select(search.root), sharing=in_flight - search.in_flight)
                written += 1
            if not search.in_flight:
                break
            expansion = await search.next()
            if not expansion.line[-1].cut:
                tree.back_up(expansion.node, expansion.line)
        return await search.posterior(lambda line: line.score, best_line=True)
