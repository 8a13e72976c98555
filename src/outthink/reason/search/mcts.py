"""Monte-Carlo tree search over steps: PUCT, values from a verifier, several expansions in flight (AlphaMath)."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.best_first import DIVES
from outthink.reason.search.node import Expansion, Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier


class Statistics:
    """Visits, summed values and simulations in flight of each node; ``returns``: how often a simulation came through it
    back to a finished line since it was last extended.

    A node's own value, as the verifier gave it, counts as one visit before any other in its mean.
    """

    def __init__(self, exploration: float) -> None:
        self.exploration = exploration
        self.visits, self.flying, self.returns = Counter[Node](), Counter[Node](), Counter[Node]()
        self.totals: dict[Node, float] = {}

    def mean(self, node: Node) -> float:
        """Q: the mean of the values backed up, those in flight taken for lost."""
        return (node.value + self.totals.get(node, 0.0)) / (1 + self.visits[node] + self.flying[node])

    def puct(self, node: Node, draws: int) -> float:
        """Q + c P sqrt(1 + sum of N of siblings) / (1 + N), where P is its share of the ``draws`` of the parent's ways.

        The descent that asks counts as in flight at the parent.
        """
        parent = node.parent
        assert parent is not None
        prior = node.count / draws
        above = self.visits[parent] + self.flying[parent] - 1
        below = 1 + self.visits[node] + self.flying[node]
        return self.mean(node) + self.exploration * prior * math.sqrt(above) / below

    def select(self, root: Node) -> Node:
        """Descend by PUCT to a line to extend, or to a whole one; it is in flight from now on.

        To be extended is one that has no child to go on with; and, further, one through which as many simulations as it
        has ways on came back to finished lines: what was drawn below it is then worth less than what was not. So the
        tree widens for as long as anybody pays for it, nearest to the root first.
        """
        node = root
        self.flying[node] += 1
        while (found := ways(node)) and self.returns[node] < len(found):
            draws = sum(child.count for child in node.children)
            node = max(found, key=partial(self.puct, draws=draws))
            self.flying[node] += 1
        return node

    def come_back(self, leaf: Node) -> None:
        """Count one simulation that came back to the finished line ``leaf``."""
        self.back_up(leaf, leaf.value)
        node = leaf.parent
        while node is not None:
            self.returns[node] += 1
            node = node.parent

    def back_up(self, leaf: Node, value: float | None) -> None:
        """Count one simulation that ended at ``leaf`` with ``value``, there and above; None takes it back uncounted."""
        node: Node | None = leaf
        while node is not None:
            self.flying[node] -= 1
            if value is not None:
                self.visits[node] += 1
                self.totals[node] = self.totals.get(node, 0.0) + value
                node.branch.thought.visits = self.visits[node]
            node = node.parent


def ways(node: Node) -> list[Node]:
    """The children to descend to: those that are neither ruled out nor cut."""
    return [child for child in node.children if child.score > -math.inf and not child.cut]


def mean_value(expansion: Expansion) -> float | None:
    """What the drawn steps are worth on average; None where the budget cut all of them."""
    drawn = [child for child in expansion.draws if not child.cut]
    return math.fsum(child.value for child in drawn) / len(drawn) if drawn else None


@method(
    "mcts",
    family="search",
    summary="Monte-Carlo tree search over steps: descend by PUCT, extend, back up the verifier's values.",
    guarantee="heuristic",
    promise="as good as the verifier's values; what is likelier to be right is visited more often",
    paper="Chen et al. 2024, AlphaMath Almost Zero: Process Supervision without Process, arXiv:2405.03553; PUCT: "
    "Silver et al. 2017, Mastering the Game of Go without Human Knowledge; widening: Couëtoux et al. 2011, Continuous "
    "Upper Confidence Trees",
    needs=("continuation",),
)
async def mcts(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    exploration: float = 1.0,
    in_flight: int = 8,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Run simulations until ``n`` of them have extended a line in ``width`` ways; those between come back to finished
    lines, which costs nothing, and make the lines that lead there wider.

    A finished line weighs its value times (1 + its visits).
    """
    at_least(1, n=n, width=width, in_flight=in_flight)
    at_least(0, exploration=exploration)
    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        width = search.plan(DIVES * width) // DIVES or 1
        tree, extended = Statistics(exploration), 0
        while not search.accepted:
            while extended < n and search.in_flight < in_flight and search.room:
                leaf = tree.select(search.root)
                if leaf.whole:
                    tree.come_back(leaf)
                elif not ways(leaf) and tree.flying[leaf] > 1:  # what is drawn there is to say what is next
                    tree.back_up(leaf, None)
                    break
                else:
                    extended, tree.returns[leaf] = extended + 1, 0
                    search.launch(leaf, width, sharing=in_flight - search.in_flight, last=False)
            if not search.in_flight:
                break
            expansion = await search.next()
            tree.back_up(expansion.node, mean_value(expansion))
        return await search.posterior(lambda line: line.score + math.log(1 + tree.visits[line]))
