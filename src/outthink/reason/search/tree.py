"""The tree that a search over steps grows: extend, score, take in, close. What to extend is the strategy's part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from outthink.core.budget import Budget, Ledger
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch, OnToken
from outthink.reason.population import weigh
from outthink.reason.search.flight import Flight
from outthink.reason.search.node import Expansion, Node, same_step
from outthink.reason.search.options import at_least
from outthink.reason.search.purse import Grant, Purse
from outthink.reason.segment import Segmenter
from outthink.verify import Verifier
from outthink.verify.compose import for_steps
from outthink.verify.needs import check_verifier


@dataclass(frozen=True)
class _Grown:
    node: Node
    grant: Grant
    draws: list[Node]
    line: list[Node]
    drawn: int
    judging: int
    longest: int
    last: bool
    start: Branch | None = None


class Search:
    """One search: its tree, what is in flight, what it may still spend. An async context manager that leaks nothing.

    Where something is limited it begins by writing one line to its end, likeliest token by likeliest token, beside the
    tree: so there is an answer as soon as one can be paid, and `plan` knows what a line costs.
    ``lines`` are the whole lines of the tree, in the order found; ``accepted`` those, the first one included, that the
    verifier accepts; ``answered``: whether any of them gives an answer. Lines are scored by ``verifier``, or by the
    model's own likelihood. Raises UserError for a ``max_tokens`` (of a line) below 1.
    """

    def __init__(
        self,
        question: Question,
        lm: LM,
        verifier: Verifier | None,
        ledger: Ledger,
        *,
        steps: str | Segmenter = "newline",
        max_tokens: int | None = None,
    ) -> None:
        at_least(1, max_tokens=max_tokens)
        self.question, self.ledger = question, ledger
        self.segmenter = Segmenter.of(steps)
        self.lines: list[Node] = []
        self._beside: list[Node] = []
        self.answered = False
        self.accepted: list[Node] = []
        self._lm, self._judge = lm, for_steps(verifier)
        check_verifier(lm, self._judge)
        self._longest_line = math.inf if max_tokens is None else max_tokens
        self._purse = Purse(ledger)
        self._flight = Flight[_Grown]()
        self._open: dict[Branch, Node] = {}
        self._loose: set[Branch] = set()

    async def __aenter__(self) -> Search:
        branch = await self._lm.root(self.question.prompt)
        self.root = Node(branch)
        self._open[branch] = self.root
        try:
            if self.ledger.limited:
                line, judging = await self._write_to_the_end(self.root)
                self._purse.open(line.length, judging)
                if not line.length:
                    self._purse.shut()
                self._beside, self.lines = self.lines, []
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._flight.cancel()
        finally:
            for branch in [*self._open, *self._loose]:
                await branch.close()

    @property
    def in_flight(self) -> int:
        """How many expansions are under way."""
        return len(self._flight)

    @property
    def room(self) -> bool:
        """Whether another expansion may be launched now. The first one has to pay for the prompt alone, and while
        there is no answer, enough is held back to write one line to its end.
        """
        return (self._purse.opened or not self._flight) and self._purse.has_room(not self.answered)

    def pay(self, tokens: int) -> None:
        """Set tokens aside that the next launch takes beyond what it draws."""
        self._purse.pay(tokens)

    def plan(self, n: int) -> int:
        """``n``, or as many lines as the budget can probably write to their end, at least one."""
        return int(max(1, min(n, self._purse.lines)))

    @property
    def all_lines(self) -> list[Node]:
        """The line written first, if it is whole, and those of the tree."""
        return [*self._beside, *self.lines]

    def launch(self, node: Node, n: int, *, sharing: int = 1, last: bool = True) -> None:
        """Start extending ``node`` by one step in ``n`` ways. Ask for ``room`` first.

        ``sharing``: how many launches should get on with what is left. ``last``: close the node once it has a live
        child. Fewer than ``n`` are drawn near the end of a token budget.
        """
        most = min(self.segmenter.until().max_tokens or math.inf, self._longest_line - node.length)
        grant = self._purse.take(n, most, sharing if self._purse.opened else 1, not self.answered)
        self._flight.launch(partial(self._grow, node, grant, last))

    def launch_line(self, node: Node, *, sharing: int = 1, branch: Branch | None = None) -> None:
        """Start extending ``node`` step by step until the line is whole, or ruled out. The node stays open.

        ``branch``: the node's own as another model goes on from it.
        """
        most = self._longest_line - node.length
        grant = self._purse.take(1, most, sharing if self._purse.opened else 1, not self.answered)
        self._flight.launch(partial(self._grow_line, node, grant, branch or node.branch))

    async def next(self) -> Expansion:
        """Take in the expansion that is over first, by the count of tokens."""
        grown = await self._flight.next()
        self._purse.settle(grown.grant, grown.drawn, grown.judging, grown.longest, alone=not self._flight)
        if not grown.drawn and all(child.cut for child in grown.draws):
            self._purse.shut()
        first = {child: await self._take_in(grown.node, child) for child in dict.fromkeys(grown.draws)}
        draws = [first[child] for child in grown.draws]
        line = draws[:1] if grown.line else []
        for child in grown.line[1:]:
            line.append(await self._take_in(line[-1], child))
        expansion = Expansion(grown.node, draws, line, grown.start)
        if grown.last and expansion.live:
            await self.close(grown.node)
        return expansion

    async def close(self, *nodes: Node, fate: str | None = None) -> None:
        """Give nodes up: they are not extended any more."""
        for node in nodes:
            node.closed = True
            self._open.pop(node.branch, None)
            if fate is not None and node.branch.thought.fate is None:
                node.branch.thought.fate = fate
            await node.branch.close()

    async def posterior(self, log_weight: Callable[[Node], float], *, best_line: bool = False) -> Posterior:
        """The answers of the whole lines, each weighing exp(``log_weight``); with ``best_line`` as its best line only.

        What is in flight is given up. Where there is no answer yet, the best line is first written to its end.
        """
        stopped = "budget" if self._purse.dry or self.ledger.exhausted else "finished"
        await self._flight.cancel()
        if not self.answered and self._open and not self.ledger.exhausted and self._purse.free >= 1:
            nodes = self._open.values()
            best = max(nodes, key=lambda node: (not any(c.open for c in node.children), node.score, node.length))
            await self._write_to_the_end(best)
        lines = self.all_lines
        if self.accepted:
            return replace(self._weigh(self.accepted, lambda _: 0.0), attempts=len(lines), stopped="verified")
        found = self._weigh(lines, log_weight)
        if not found.weights and lines:  # all are ruled out: fall back on what the lines agree on
            none = "no line passed the verifier" if stopped == "finished" else stopped
            return replace(self._weigh(lines, lambda _: 0.0), stopped=none)
        return replace(best_of_each(found) if best_line else found, stopped=stopped)

    def _weigh(self, nodes: Iterable[Node], log_weight: Callable[[Node], float]) -> Posterior:
        weights = {node.branch: log_weight(node) for node in nodes}
        return weigh(self.question, list(weights), lambda branch: weights[branch])

    async def _grow(self, node: Node, grant: Grant, last: bool, on_token: OnToken) -> tuple[_Grown, int]:
        """Extend and score; what it makes stays loose until it is taken in."""
        until = self.segmenter.until(grant.each)
        branches = await node.branch.extend(grant.num_children, until, on_token=on_token)
        self._loose.update(branches)
        draws, longest = list[Node](), max(len(branch.tokens) for branch in branches)
        for branch in branches:
            child = self._node(node, branch, until)
            twin = next((known for known in draws if same_step(known, child)), None)
            draws.append(twin or child)
            if twin is not None:
                twin.count += 1
                await self._drop_twin(child)
        children = list(dict.fromkeys(draws))
        drawn = sum(len(branch.tokens) for branch in branches)
        judging = await self._score([child for child in children if not child.cut], grant.reserved - drawn)
        return _Grown(node, grant, draws, [], drawn, judging, longest, last), longest

    async def _grow_line(self, node: Node, grant: Grant, start: Branch, on_token: OnToken) -> tuple[_Grown, int]:
        """Extend and score step by step; what it makes stays loose until it is taken in."""
        line, tip, drawn, judging = list[Node](), node, 0, 0
        while tip.open and (not line or drawn < grant.each):
            until = self.segmenter.until(grant.each - drawn)
            [branch] = await (tip.branch if line else start).extend(1, until, on_token=on_token)
            self._loose.add(branch)
            tip = self._node(tip, branch, until)
            line.append(tip)
            drawn += len(branch.tokens)
            judging += await self._score([] if tip.cut else [tip], grant.reserved - drawn - judging)
        return _Grown(node, grant, line[:1], line, drawn, judging, drawn, False, start), drawn

    def _node(self, parent: Node, branch: Branch, until: Until) -> Node:
        child = Node(branch, parent, parent.depth + 1, parent.length + len(branch.tokens))
        whole = self.segmenter.is_whole(self.question, branch, until)
        child.whole = whole or (branch.finish != "budget" and child.length >= self._longest_line)
        child.cut = not child.whole and branch.finish == "budget"
        return child

    async def _score(self, nodes: list[Node], most: float = math.inf) -> int:
        """Write the verifier's scores into ``nodes``; how many tokens that took, of ``most``."""
        if not nodes:
            return 0
        part = self.ledger.slice(Budget() if most == math.inf else Budget(tokens=max(0, int(most))))
        scores = await self._judge.score(self.question, [node.branch for node in nodes], part)
        for node, score in zip(nodes, scores, strict=True):
            node.score = node.branch.thought.value = score
        return part.bill.tokens

    async def _take_in(self, parent: Node, child: Node) -> Node:
        """Make ``child`` part of the tree below ``parent``, or close it and return the child that is the same."""
        twin = next((known for known in parent.children if same_step(known, child)), None)
        if twin is not None:
            twin.count += child.count
            await self._drop_twin(child)
            return twin
        child.parent = parent
        parent.children.append(child)
        await self._note(child)
        return child

    async def _note(self, child: Node) -> None:
        """Keep the branch of a new node while it is open, and its answer where it is whole."""
        self._loose.discard(child.branch)
        self._open[child.branch] = child
        if child.whole:
            child.branch.thought.answer = self.question.answer_of(child.branch)
            self.lines.append(child)
            self.answered |= child.answered
            if child.answered and self._judge.accepts(child.score):
                self.accepted.append(child)
        if not child.open:
            await self.close(child, fate=None if child.whole else "cut by the budget" if child.cut else "ruled out")

    async def _drop_twin(self, node: Node) -> None:
        self._loose.discard(node.branch)
        node.branch.thought.fate = "the same as a sibling"
        await node.branch.close()

    async def _write_to_the_end(self, node: Node) -> tuple[Node, int]:
        """A line on from ``node``, likeliest token by likeliest token, as far as it may; scored at the end. And how
        many tokens scoring took.
        """
        greedy, free, tip = replace(self._lm.sampling, temperature=0.0), self._purse.free, node
        while tip is node or (tip.open and free >= 1):
            until = self.segmenter.until(max(1, min(free, self._longest_line - tip.length)))
            [branch] = await tip.branch.extend(1, until, greedy)
            self._loose.add(branch)
            if tip is not node:
                await tip.branch.close()
            tip = self._node(tip, branch, until)
            free -= len(branch.tokens)
        tip.cut = not tip.whole
        judging = await self._score([tip])
        await self._note(tip)
        return tip, judging


def best_of_each(posterior: Posterior) -> Posterior:
    """Each answer weighs as its heaviest line, and nothing is unassigned. Writes the fates anew."""
    best: dict[str, Candidate] = {}
    for candidate in posterior.candidates:
        if candidate.answer not in best or candidate.log_weight > best[candidate.answer].log_weight:
            best[candidate.answer] = candidate
    found = replace(posterior, candidates=tuple(best.values()), log_unassigned=-math.inf)
    for candidate in posterior.candidates:
        if candidate.thought is not None and candidate.log_weight > -math.inf:
            candidate.thought.fate = "chosen" if candidate.answer == found.best else "outvoted"
    return found
