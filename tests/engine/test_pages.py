"""Random use of an engine, every page, token, text and bill checked after each step; and engines that are broken."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from engine.fakes import VOCAB_SIZE
from engine.world import Node, World, make_engine
from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.engine.sequence import Task
from outthink.kv import Lease, PagedCache
from outthink.kv.cache import Copy
from outthink.scheduling import Limits, Scheduler

TOKENS = st.integers(0, VOCAB_SIZE - 1)
UNTIL = st.builds(
    Until,
    max_tokens=st.sampled_from([1, 3, 12, 25, None]),
    stop=st.sampled_from([(), (), (), ("a",), ("ab", "b"), ("né", "é"), ("\n", "b\n")]),
    stop_tokens=st.sampled_from([(), (), (4,)]),
    ignore_eos=st.sampled_from([True, True, False]),
)
SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([None, 3]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 3),
)
WHICH = st.integers(0, 1000)
UNLIMITED = st.none()
BUDGET = UNLIMITED | UNLIMITED | st.integers(0, 60).map(lambda n: Budget(tokens=n) if n % 3 else Budget(flops=999 * n))


class EngineMachine(RuleBasedStateMachine):
    """Opens, grows, forks, feeds, scores, cancels and closes branches; `World.step` checks after every step."""

    cache: type[PagedCache] = PagedCache
    scheduler: type[Scheduler] = Scheduler

    @initialize(
        pool=st.integers(12, 70),
        page_size=st.sampled_from([1, 3, 4]),
        batch=st.sampled_from([1, 5, 64]),
        sequences=st.sampled_from([2, 64]),
    )
    def begin(self, pool: int, page_size: int, batch: int, sequences: int) -> None:
        limits = Limits(max_batch_tokens=batch, max_sequences=sequences)
        engine = make_engine(1 + -(-pool // page_size), page_size, limits, 40, self.cache, self.scheduler)
        self.world = World(engine)
        for stem in (5, 8):
            self.world.extend(self.world.root([0, 1, 2, 3, 0, 1, 2, 3][:stem]), 3, Until(stem, ignore_eos=True))

    @rule(stem=st.integers(0, 12), rest=st.lists(TOKENS, max_size=6), namespace=st.sampled_from(["", "other"]))
    def root(self, stem: int, rest: list[int], namespace: str) -> None:
        tokens = ([0, 1, 2, 3] * 3)[:stem] + rest
        if 0 < len(tokens) < self.world.engine.max_positions:
            self.world.root(tokens, namespace)

    @precondition(lambda self: self.world.nodes)
    @rule(which=WHICH, n=st.integers(1, 5), until=UNTIL, sampling=SAMPLING, budget=BUDGET)
    def extend(self, which: int, n: int, until: Until, sampling: Sampling, budget: Budget | None) -> None:
        self.world.extend(self._node(which), n, until, sampling, self._ledger(which, budget))

    @precondition(lambda self: self.world.nodes)
    @rule(which=WHICH, text=st.lists(TOKENS, min_size=1, max_size=9), budget=BUDGET, known=st.booleans())
    def score(self, which: int, text: list[int], budget: Budget | None, known: bool) -> None:
        node = self._node(which)
        if known:  # what has been computed before, so that it may be found in the cache
            longer = [
                n.tokens[len(node.tokens) :] for n in self.world.nodes if n.tokens[: len(node.tokens)] == node.tokens
            ]
            text = list(max(longer, key=len)) or text
        room = self.world.engine.max_positions - len(node.tokens)
        if text[:room]:
            self.world.score(node, text[:room], self._ledger(which, budget))

    @precondition(lambda self: self.world.nodes)
    @rule(which=WHICH, text=st.lists(TOKENS, min_size=1, max_size=9), budget=BUDGET)
    def judge(self, which: int, text: list[int], budget: Budget | None) -> None:
        node = self._node(which)
        if text := text[: self.world.engine.max_positions - len(node.tokens)]:
            self.world.judge(node, text, self._ledger(which, budget))

    @precondition(lambda self: self.world.nodes)
    @rule(which=WHICH, text=st.lists(TOKENS, max_size=6))
    def feed(self, which: int, text: list[int]) -> None:
        node = self._node(which)
        self.world.feed(node, text[: self.world.engine.max_positions - len(node.tokens)])

    @precondition(lambda self: len(self.world.nodes) > 2)
    @rule(which=WHICH)
    def close(self, which: int) -> None:
        self.world.close(self._node(which))

    @precondition(lambda self: len(self.world.live) > 1)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        self.world.cancel(self._task(which))

    @precondition(lambda self: len(self.world.live) > 2)
    @rule(which=WHICH)
    def cancel_ledger(self, which: int) -> None:
        self._task(which).ledger.cancel()

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    def teardown(self) -> None:
        if hasattr(self, "world") and self.world.intact:
            self.world.finish()

    def _node(self, which: int) -> Node:
        return self.world.nodes[which % len(self.world.nodes)]

    def _task(self, which: int) -> Task:
        return list(self.world.live)[which % len(self.world.live)]

    def _ledger(self, which: int, budget: Budget | None) -> Ledger:
        """A new ledger, a slice of one in use, or one in use."""
        if not self.world.live or which % 3:
            return Ledger(budget, priority=which % 4 - 2)
        ledger = self._task(which).ledger
        return ledger.slice(budget) if budget is not None else ledger


def run_machine(machine: type[EngineMachine], examples: int, steps: int, shrink: bool) -> None:
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_use_keeps_pages_tokens_and_bills_exact() -> None:
    run_machine(EngineMachine, examples=110, steps=60, shrink=True)


class ForkCountsNoTail(PagedCache):
    """A fork does not count itself on the tail page: the first release frees it for all, or a write changes both."""

    def fork(self, lease: Lease) -> Lease:
        lease.node.refs += 1
        return Lease(lease.node, list(lease.pages), lease.length)


class NoCopyOnWrite(PagedCache):
    """A shared tail page is handed over instead of copied: a branch finds what its sibling wrote."""

    def reserve(self, lease: Lease, count: int) -> list[Copy] | None:
        copies = super().reserve(lease, count)
        return None if copies is None else []


class CopiesTheWrongWay(PagedCache):
    def reserve(self, lease: Lease, count: int) -> list[Copy] | None:
        copies = super().reserve(lease, count)
        return None if copies is None else [(target, source) for source, target in copies]


class ReleaseForgetsTheTail(PagedCache):
    def release(self, lease: Lease) -> None:
        del lease.pages[lease.node.depth :]
        super().release(lease)


class ReleaseForgetsTheNode(PagedCache):
    def release(self, lease: Lease) -> None:
        lease.node.refs += 1
        super().release(lease)


class CommitsUnderTheWrongKey(PagedCache):
    """A full page is found under tokens that are not its own."""

    def commit(self, lease: Lease, tokens: Sequence[int], count: int) -> None:
        super().commit(lease, sorted(tokens[: lease.length + count]), count)


class EvictsPagesInUse(PagedCache):
    """Evicts a leaf of the tree whether or not somebody holds it."""

    def _evict(self) -> bool:
        for root in self._roots.values():
            for key, node in root.children.items():
                if not node.children:
                    del root.children[key]
                    root.refs -= 1
                    self._free.append(node.page)
                    return True
        return False


class FindsTooMuch(PagedCache):
    """Takes from the cache what must yield logits."""

    def advance(self, lease: Lease, tokens: Sequence[int], most: int | None = None) -> int:
        return super().advance(lease, tokens, len(tokens))


class PreemptsWithoutReleasing(Scheduler):
    def _send_back(self, sequence) -> None:
        sequence.lease = None
        super()._send_back(sequence)


class ForgetsThePreempted(Scheduler):
    def _preempt(self, victim) -> None:
        super()._preempt(victim)
        self.waiting.remove(victim)


class DropKeepsThePages(Scheduler):
    def drop(self, sequence) -> None:
        self._unqueue(sequence)
        self.resting.pop(sequence, None)


BROKEN_CACHES = [
    ForkCountsNoTail,
    NoCopyOnWrite,
    CopiesTheWrongWay,
    ReleaseForgetsTheTail,
    ReleaseForgetsTheNode,
    CommitsUnderTheWrongKey,
    EvictsPagesInUse,
    FindsTooMuch,
]
BROKEN_SCHEDULERS = [
    PreemptsWithoutReleasing,
    ForgetsThePreempted,
    DropKeepsThePages,
]


@pytest.mark.parametrize("broken", [*BROKEN_CACHES, *BROKEN_SCHEDULERS])
def test_a_broken_cache_or_scheduler_is_noticed(broken: type) -> None:
    parts = {"cache" if issubclass(broken, PagedCache) else "scheduler": broken}
    with pytest.raises(AssertionError):
        run_machine(type(broken.__name__, (EngineMachine,), parts), examples=100, steps=60, shrink=False)
