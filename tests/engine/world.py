"""Drives an engine by hand, a step at a time, and checks everything that can be checked after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.fakes import FakeVocabulary, HashBackend, expected_child, true_logits
from outthink.core.budget import Ledger
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.sampler import log_softmax
from outthink.engine.sequence import Extend, Judge, Prompt, Reading, Score, Task
from outthink.engine.sequence import Sequence as EngineSequence
from outthink.kv import PagedCache
from outthink.scheduling import Limits, Scheduler

COSTS = Costs(lambda start, count: sum(1000 + p for p in range(start, start + count)), 7)


def make_engine(
    num_pages: int = 64,
    page_size: int = 4,
    limits: Limits | None = None,
    max_positions: int = 10_000,
    cache: type[PagedCache] = PagedCache,
    scheduler: type[Scheduler] = Scheduler,
    backend: HashBackend | None = None,
) -> Engine:
    """An engine over the hash backend, with the parts under test."""
    made = scheduler(cache(num_pages, page_size), limits or Limits())
    backend = backend or HashBackend(num_pages, page_size)
    return Engine(backend, FakeVocabulary(), COSTS, max_positions, scheduler=made)


@dataclass(eq=False, repr=False)
class Node:
    """A branch that the driver holds open, and what it knows of it."""

    sequence: EngineSequence
    tokens: tuple[int, ...]
    key: int
    prompt: Prompt
    num_children: int = 0
    tasks: list[Extend | Reading] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class World:
    """Every branch and task in play. ``num_drawn`` counts the tokens of finished tasks by ledger."""

    engine: Engine
    nodes: list[Node] = field(default_factory=list)
    live: dict[Extend | Reading, None] = field(default_factory=dict)
    finished: list[Task] = field(default_factory=list)
    shown: dict[Task, dict[int, str]] = field(default_factory=dict)
    ledgers: list[Ledger] = field(default_factory=list)
    num_idle: int = 0
    intact: bool = True

    def root(self, tokens: Sequence[int], namespace: str = "") -> Node:
        sequence = self.engine.open_root(tokens, namespace)
        return self._node(sequence, tuple(tokens), mix(0, 0), Prompt(len(tokens), len(tokens)))

    def feed(self, node: Node, tokens: Sequence[int]) -> Node:
        sequence = self.engine.open_child(node.sequence, tokens)
        return self._node(sequence, node.tokens + tuple(tokens), self._key(node), node.prompt)

    def extend(
        self, node: Node, n: int = 1, until: Until | None = None, sampling: Sampling | None = None, ledger=None
    ) -> Extend:
        until, sampling = until or Until(max_tokens=5), sampling or Sampling()
        keys = [self._key(node) for _ in range(n)]
        shown: dict[int, str] = dict.fromkeys(range(n), "")

        def on_token(index: int, text: str) -> None:
            shown[index] += text

        task = Extend(
            node.sequence,
            self._ledger(ledger),
            lambda children: self._grown(node, task, children),
            self._failed,
            node.prompt,
            keys=keys,
            until=until,
            sampling=sampling,
            limit=self.engine.max_positions,
            on_token=on_token,
        )
        self.shown[task] = shown
        return self._start(node, task)

    def score(self, node: Node, tokens: Sequence[int], ledger=None) -> Score:
        task = Score(
            node.sequence,
            self._ledger(ledger),
            lambda log_probs: self._scored(node, task, log_probs),
            self._failed,
            node.prompt,
            tokens=list(tokens),
        )
        return self._start(node, task)

    def judge(self, node: Node, tokens: Sequence[int], ledger=None) -> Judge:
        task = Judge(
            node.sequence,
            self._ledger(ledger),
            lambda result: self._judged(node, task, *result),
            self._failed,
            node.prompt,
            tokens=list(tokens),
        )
        return self._start(node, task)

    def close(self, node: Node) -> None:
        for task in node.tasks:
            self.cancel(task)
        self.nodes.remove(node)
        self.engine.close(node.sequence)

    def cancel(self, task: Task) -> None:
        self.live.pop(task, None)
        self.engine.cancel(task)

    def step(self) -> bool:
        """One step of the engine, and every check there is."""
        self.intact = False
        before, steps, finished = [(x, x.bill) for x in self.ledgers], self.engine.stats.steps, len(self.finished)
        busy = self.engine.step()
        self.check()
        assert busy or not self.live, f"the engine would sleep over {len(self.live)} tasks"
        progress = self.engine.stats.steps > steps or len(self.finished) > finished or not self.live
        self.num_idle = 0 if progress else self.num_idle + 1
        assert self.num_idle < 3, "steps go by and nothing is computed"
        for ledger, bill in before:
            assert ledger.bill.cached >= bill.cached and ledger.bill.prefilled >= bill.prefilled, "a bill went down"
            if ledger.budget.tokens is not None:
                assert ledger.bill.tokens <= ledger.budget.tokens, f"{ledger.bill} is over {ledger.budget}"
        self.intact = True
        return busy

    def run(self, bound: int = 5_000) -> int:
        """Step until every task is over; returns the number of steps."""
        for count in range(bound):
            if not self.live:
                return count
            self.step()
        raise AssertionError(f"{len(self.live)} tasks still live after {bound} steps")

    def check(self) -> None:
        """The engine's own check, an independent count of pages, and poison for what nobody may read."""
        engine, cache = self.engine, self.engine.cache
        engine.check_integrity()
        free = list(cache._free)
        leases = engine.scheduler.leases()
        leased = {page for lease in leases for page in lease.pages}
        tree, stack = set(), list(cache._roots.values())
        while stack:
            node = stack.pop()
            tree |= {child.page for child in node.children.values()}
            stack.extend(node.children.values())
        assert len(free) == len(set(free)) == cache.num_free
        assert not leased & set(free), "a free page is leased"
        assert not tree & set(free), "a free page is in the tree"
        assert len(free) + len(leased | tree) == cache.num_pages, "a page is nowhere"
        assert cache.num_leased(leases) == len(leased)
        for sequence in (*engine.scheduler.running, *engine.scheduler.resting):
            assert sequence.lease is not None
            assert sequence.lease.length <= len(sequence.tokens)
        self._check_sharing()
        reachable = {id(n.sequence) for n in self.nodes} | {
            id(s) for task in self.live for s in (task.children if isinstance(task, Extend) else [task.sequence])
        }
        held = (*engine.scheduler.waiting, *engine.scheduler.running, *engine.scheduler.resting)
        assert {id(s) for s in held} <= reachable, "a sequence that nobody holds keeps pages or a place"
        engine.backend.spoil(free)

    def _check_sharing(self) -> None:
        """Full pages are one exactly where the tokens up to their end are."""
        prefix_of, page_of = {}, {}
        size = self.engine.cache.page_size
        for sequence in (*self.engine.scheduler.running, *self.engine.scheduler.resting):
            lease = sequence.lease
            assert lease is not None
            for i in range(lease.length // size):
                prefix = (sequence.namespace, *sequence.tokens[: (i + 1) * size])
                assert prefix_of.setdefault(lease.pages[i], prefix) == prefix, "two prefixes have one page"
                assert page_of.setdefault(prefix, lease.pages[i]) == lease.pages[i], "one prefix has two pages"

    def finish(self) -> None:
        """Let everything end, close it all, and see that nothing is left."""
        self.run()
        while self.nodes:
            self.close(self.nodes[-1])
        self.step()
        cache, scheduler = self.engine.cache, self.engine.scheduler
        assert not (scheduler.waiting or scheduler.running or scheduler.resting), "sequences are left"
        assert not self.engine._tasks and not self.engine._ready and not self.engine._roots, "work is left"
        assert not self.engine.busy, "the engine would not sleep"
        assert cache.num_leased(scheduler.leases()) == 0
        lease = cache.lease([0])
        assert cache.reserve(lease, cache.num_pages * cache.page_size) is not None, "a cached page cannot be evicted"
        assert cache.num_free == 0
        cache.release(lease)
        assert cache.num_free == cache.num_pages

    def _node(self, sequence: EngineSequence, tokens: tuple[int, ...], key: int, prompt: Prompt) -> Node:
        node = Node(sequence, tokens, key, prompt)
        self.nodes.append(node)
        return node

    def _key(self, node: Node) -> int:
        node.num_children += 1
        return mix(node.key, node.num_children - 1)

    def _ledger(self, ledger: Ledger | None) -> Ledger:
        ledger = ledger or Ledger()
        if ledger not in self.ledgers:
            self.ledgers.append(ledger)
        return ledger

    def _start(self, node: Node, task: Any) -> Any:
        node.tasks.append(task)
        self.live[task] = None
        self.engine.start(task)
        return task

    def _over(self, task: Task) -> None:
        assert task in self.live, "a task that is over ended again"
        del self.live[task]
        self.finished.append(task)

    def _failed(self, error: BaseException) -> None:
        raise AssertionError("a task failed") from error

    def _grown(self, node: Node, task: Extend, children: list[EngineSequence]) -> None:
        self._over(task)
        assert len(children) == len(task.keys)
        for index, (child, key) in enumerate(zip(children, task.keys, strict=True)):
            generation = child.generation
            assert generation is not None
            expected = expected_child(node.tokens, key, task.until, task.sampling, task.prompt.length, task.limit)
            drawn = tuple(child.tokens[len(node.tokens) :])
            assert tuple(child.tokens[: len(node.tokens)]) == node.tokens, "a prefix changed"
            if generation.finish == "budget":
                assert task.ledger.limited or task.ledger.cancelled, "cut without a limit"
                assert drawn == expected.tokens[: len(drawn)], "tokens differ from those drawn alone"
                assert len(drawn) < len(expected.tokens) or not expected.tokens
            else:
                assert (drawn, generation.finish) == (expected.tokens, expected.finish), "differs from what it is alone"
                assert generation.completion == expected.completion, "the text before the stop differs"
            assert np.allclose(generation.log_probs, expected.log_probs[: len(drawn)], atol=1e-9)
            assert self.shown[task][index] == generation.text.decode(errors="replace"), "streamed text differs"
            self._node(child, (*node.tokens, *drawn), key, node.prompt)

    def _scored(self, node: Node, task: Score, log_probs: list[float]) -> None:
        self._over(task)
        cut = len(log_probs) < len(task.tokens)
        assert not cut or task.ledger.limited or task.ledger.cancelled, "a score is cut short"
        for i, log_prob in enumerate(log_probs):
            law = log_softmax(true_logits((*node.tokens, *task.tokens[:i])).astype(np.float64))
            assert abs(law[task.tokens[i]] - log_prob) < 1e-9, "a score differs from a forward pass"

    def _judged(self, node: Node, task: Judge, values: list[float], sequence: EngineSequence | None) -> None:
        self._over(task)
        cut = len(values) < len(task.tokens)
        assert cut == (sequence is None), "a judgement hands over its sequence when it is whole, and only then"
        assert not cut or task.ledger.limited or task.ledger.cancelled, "a judgement is cut short"
        for i, value in enumerate(values):
            assert value == float(true_logits((*node.tokens, *task.tokens[: i + 1]))[0]), "a value differs"
        if sequence is not None:
            assert sequence.tail_logits is not None
            self._node(sequence, (*node.tokens, *task.tokens), self._key(node), node.prompt)
