"""Best-first search over steps, with several expansions in flight: Levin tree search and A*."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.search.node import Expansion, Node
from outthink.reason.search.options import at_least
from outthink.reason.search.tree import Search
from outthink.verify import Verifier

DIVES = 2  # a line to its end costs as many lines as its steps are wide; the budget should do for so many


class Frontier:
    """Lines by cost, cheapest first; among equal costs the longest line, then the one found first.

    ``found`` are the whole lines that were the cheapest of all, those in flight included, when they were taken out:
    nothing that could still be drawn would have come before them. `rest` keeps lines that were extended for when
    nothing else is left.
    """

    def __init__(self, root: Node, cost: float) -> None:
        self._heap = [(cost, 0, 0, root)]
        self._rested: list[tuple[float, int, int, Node]] = []
        self._flying: dict[Node, float] = {}
        self._known = {root}
        self._pushed = 0
        self.found: list[Node] = []
        self.expansions = 0

    def push(self, node: Node, cost: float) -> None:
        """Add a line again, or anew."""
        self._known.add(node)
        heapq.heappush(self._heap, self._entry(node, cost))

    def rest(self, node: Node, cost: float) -> None:
        """Keep a line that was extended, to be extended again once all others are."""
        heapq.heappush(self._rested, self._entry(node, cost))

    def wake(self, most: int) -> None:
        """Where no line is left to extend, take back the cheapest ``most`` of those that were."""
        if not self._heap:
            for _ in range(min(most, len(self._rested))):
                heapq.heappush(self._heap, heapq.heappop(self._rested))

    def knows(self, node: Node) -> bool:
        """Whether it was ever pushed."""
        return node in self._known

    def _entry(self, node: Node, cost: float) -> tuple[float, int, int, Node]:
        self._pushed += 1
        return cost, -node.depth, self._pushed, node

    def pop(self, answers: int) -> Node | None:
        """The next line to extend; None while a whole line comes first and waits, or ``answers`` are found."""
        while self._heap and len(self.found) < answers:
            cost, _, _, node = self._heap[0]
            if not node.whole:
                heapq.heappop(self._heap)
                self._flying[node] = cost
                self.expansions += 1
                return node
            if any(other < cost for other in self._flying.values()):
                return None
            heapq.heappop(self._heap)
            if node.answered:
                self.found.append(node)
        return None

    def back(self, node: Node) -> float:
        """Note that an expansion is over; the cost that ``node`` had."""
        return self._flying.pop(node)


async def best_first(
    search: Search,
    root_cost: float,
    costs: Callable[[Expansion, float], dict[Node, float]],
    again: Callable[[float], float],
    *,
    n: int,
    width: int,
    answers: int,
    in_flight: int,
) -> Posterior:
    """Extend the cheapest line in ``width`` ways, at most ``n`` times, until ``answers`` whole lines came out first.

    ``costs``: of the fit children, given the parent's; ``again``: of a line that is extended once more, because all of
    its children are ruled out, or because all that was drawn has been extended and answers are still wanted.
    """
    at_least(1, n=n, width=width, answers=answers, in_flight=in_flight)
    frontier, width = Frontier(search.root, root_cost), search.plan(DIVES * width) // DIVES or 1
    while not search.accepted and len(frontier.found) < answers:
        while search.in_flight < in_flight and frontier.expansions < n and search.room:
            node = frontier.pop(answers)
            if node is None and not search.in_flight and len(frontier.found) < answers:
                frontier.wake(in_flight)
                node = frontier.pop(answers)
            if node is None:
                break
            search.launch(node, width, sharing=in_flight - search.in_flight, last=False)
        if not search.in_flight:
            frontier.pop(answers)  # whole lines that came first when the last expansion was over
            break
        expansion = await search.next()
        cost = frontier.back(expansion.node)
        for child, child_cost in costs(expansion, cost).items():
            if not frontier.knows(child):
                frontier.push(child, child_cost)
        (frontier.rest if expansion.fit else frontier.push)(expansion.node, again(cost))
    passed_over = [line for line in search.lines if frontier.found and line not in frontier.found]
    return await search.posterior(lambda line: -math.inf if line in passed_over else line.score, best_line=True)


@method(
    "levin",
    family="search",
    summary="Always extend the line with the least depth / probability, where the verifier makes the probabilities.",
    guarantee="bounded",
    promise="before a finished line at depth d that the policy gives probability p comes out, at most d / p lines as "
    "cheap are extended",
    paper="Kang et al. 2024, MindStar, arXiv:2405.16265; the bound: Orseau et al. 2018, Single-Agent Policy Tree "
    "Search With Guarantees, arXiv:1811.10928",
    needs=("continuation",),
)
async def levin(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    temperature: float = 0.5,
    answers: int = 1,
    in_flight: int = 8,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """The policy gives the children of a line shares in proportion to draws x exp(score / ``temperature``). Once all
    that was drawn is extended, lines are extended again, at twice the cost each time.
    """
    at_least(1e-6, temperature=temperature)
    log_policy: dict[Node, float] = {}

    def costs(expansion: Expansion, cost: float) -> dict[Node, float]:
        parent, fit = expansion.node, [child for child in expansion.node.children if child.fit]
        if not fit:
            return {}
        logits = [math.log(child.count) + child.score / temperature for child in fit]
        total = max(logits) + math.log(math.fsum(math.exp(logit - max(logits)) for logit in logits))
        new = {child: logit for child, logit in zip(fit, logits, strict=True) if child not in log_policy}
        for child, logit in new.items():
            log_policy[child] = log_policy.get(parent, 0.0) + logit - total
        return {child: levin_cost(child.depth, log_policy[child]) for child in new}

    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        return await best_first(
            search,
            1.0,
            costs,
            lambda cost: 2 * cost,
            n=n,
            width=width,
            answers=answers,
            in_flight=in_flight,
        )


def levin_cost(depth: int, log_policy: float) -> float:
    """(depth + 1) / policy: the root is at depth 1 of the bound."""
    return (depth + 1) * math.exp(min(-log_policy, 700.0))


@method(
    "a-star",
    family="search",
    summary="Always extend the line of least cost so far plus estimated cost to go; the first finished line wins.",
    guarantee="bounded",
    promise="with a verifier that never scores a line below the best line that can follow it, the first finished line "
    "is the best of the whole tree of draws",
    paper="Chatziveroglou 2025, A*-Decoding: Token-Efficient Inference Scaling, arXiv:2505.13672",
    needs=("continuation", "log_probs"),
)
async def a_star(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    likelihood: float = 0.0,
    answers: int = 1,
    in_flight: int = 8,
    steps: str = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """A line costs -score - ``likelihood`` x its log-probability: the verifier's score of an unfinished line is what
    it expects of the finished one. Each expansion of a line that is to be drawn from once more costs it log 2 more.
    """

    def cost_of(node: Node) -> float:
        return -node.score - (likelihood * node.log_prob if likelihood else 0.0)

    async with Search(question, lm, verifier, ledger, steps=steps, max_tokens=max_tokens) as search:
        return await best_first(
            search,
            0.0,
            lambda expansion, _: {child: cost_of(child) for child in expansion.fit},
            lambda cost: cost + math.log(2),
            n=n,
            width=width,
            answers=answers,
            in_flight=in_flight,
        )
