"""Pages that run out: whole gangs give way, by priority and age, and every gang that fits alone finishes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from outthink.kv import PagedCache
from outthink.scheduling import Gang, Limits, Scheduler, Slice, pending
from scheduling.test_scheduler import SIZE, Line


@dataclass(eq=False)
class Tree:
    """A gang with its lines: those that grow, and those that rest with their pages until the tree is over."""

    gang: Gang
    growing: list[Line] = field(default_factory=list)
    resting: list[Line] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Trees come, fork, are cancelled and grow; what must hold is checked after every step."""

    kind: type[Scheduler] = Scheduler

    @initialize(
        pages=st.integers(8, 40), batch=st.sampled_from([1, 4, 16, 64]), sequences=st.sampled_from([1, 2, 8, 64])
    )
    def begin(self, pages: int, batch: int, sequences: int) -> None:
        self.scheduler = self.kind(PagedCache(pages, SIZE), Limits(batch, sequences))
        self.longest = (pages - 1) * SIZE
        self.trees: list[Tree] = []
        self.born = self.work = 0
        self.sound = True

    @rule(
        priority=st.sampled_from([0, 0, 0, -1, 2]),
        tenant=st.sampled_from(["a", "a", "b"]),
        branches=st.integers(1, 6),
        prompt=st.integers(1, 30),
        more=st.integers(0, 30),
    )
    def come(self, priority: int, tenant: str, branches: int, prompt: int, more: int) -> None:
        tree = Tree(Gang(priority, tenant, len(self.trees)))
        self.trees.append(tree)
        prompt = min(prompt, self.longest)
        for branch in range(branches):
            tokens = [prompt % 3] * (prompt - 1) + [branch]
            self._begin(tree, Line(tokens, more=min(more, self.longest - prompt), namespace=tenant))

    @precondition(lambda self: any(tree.resting for tree in self.trees))
    @rule(which=st.integers(0, 99), branches=st.integers(1, 4), more=st.integers(1, 20))
    def fork(self, which: int, branches: int, more: int) -> None:
        trees = [tree for tree in self.trees if tree.resting]
        tree = trees[which % len(trees)]
        parent = tree.resting[which % len(tree.resting)]
        room = min(more, self.longest - len(parent.tokens) - 1)
        for branch in range(branches if room >= 0 else 0):
            lease = None if parent.lease is None else self.scheduler.cache.fork(parent.lease)
            self._begin(tree, Line([*parent.tokens, branch], 0, room, lease, tree.gang.tenant))

    @precondition(lambda self: self.trees)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        tree = self.trees[which % len(self.trees)]
        for line in (*tree.growing, *tree.resting):
            self.scheduler.drop(line)
        tree.growing, tree.resting = [], []

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self._step()

    def teardown(self) -> None:
        if not hasattr(self, "trees") or not self.sound:
            return
        alive = sum(bool(tree.growing) for tree in self.trees)
        for _ in range(50 + 4 * (1 + alive) * self.work):
            if not any(tree.growing for tree in self.trees):
                break
            self._step()
        assert not any(tree.growing for tree in self.trees), "a gang that fits alone never finishes"
        for tree in self.trees:
            for line in tree.resting:
                self.scheduler.drop(line)
        cache = self.scheduler.cache
        self.scheduler.check_integrity()
        lease = cache.lease([0])
        assert cache.reserve(lease, cache.num_pages * SIZE) is not None, "a page leaked"
        cache.release(lease)

    def _begin(self, tree: Tree, line: Line) -> None:
        self.born += 1
        line.arrival, line.gang = self.born, tree.gang
        self.work += len(line.tokens) + line.more
        tree.growing.append(line)
        self.scheduler.add(line)

    def _step(self) -> None:
        self.sound = False
        scheduler, suspensions = self.scheduler, self.scheduler.num_suspensions
        before = {tree: [line for line in tree.growing if line.lease] for tree in self.trees}
        slices = scheduler.schedule()
        self._check(slices, before, scheduler.num_suspensions > suspensions)
        scheduler.commit(slices)
        for piece in slices:
            line: Line = piece.sequence
            if pending(line) == 0 and line.more:
                line.more -= 1
                line.tokens.append(len(line.tokens) % 5)
            elif pending(line) == 0:
                tree = next(tree for tree in self.trees if tree.gang is line.gang)
                tree.growing.remove(line)
                tree.resting.append(line)
                scheduler.rest(line)
        scheduler.check_integrity()
        self.sound = True

    def _check(self, slices: list[Slice], before: dict[Tree, list[Line]], suspended: bool) -> None:
        scheduler, limits = self.scheduler, self.scheduler.limits
        assert sum(piece.count for piece in slices) <= limits.max_batch_tokens
        assert len({piece.sequence for piece in slices}) == len(slices) <= limits.max_sequences
        assert all(piece.sequence.lease is not None for piece in slices), "a slice without pages"
        assert scheduler.cache.num_leased(scheduler.leases()) <= scheduler.cache.num_pages
        assert slices or not any(tree.growing for tree in self.trees), "there is work, and nothing is done"
        lost = {tree: [line for line in lines if line.lease is None] for tree, lines in before.items()}
        first = min((tree for tree in self.trees if tree.growing), key=lambda tree: tree.gang.rank, default=None)
        for tree, lines in lost.items():
            if not lines:
                continue
            kept = [line for line in tree.growing if line.lease is not None]
            if tree.gang.suspended:
                assert not kept, "a gang that is preempted as a whole keeps pages"
                assert tree is not first, "the first of all is preempted by others"
            else:
                assert all(line.arrival <= lines[0].arrival for line in kept if line in before[tree]), (
                    "not the youngest"
                )
                low = [other for other in self.trees if other.gang.priority > tree.gang.priority]
                assert not any(line.lease for other in low for line in other.growing), (
                    "one of less priority keeps pages"
                )
        if suspended:
            assert not scheduler.resting, "pages of those that rest go first"


def run_machine(machine: type[Machine], examples: int, shrink: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_gang_that_fits_alone_finishes_and_no_page_is_lost() -> None:
    run_machine(Machine, 40, shrink=True)


class KeepsOne(Scheduler):
    """Preempts a gang but for its oldest sequence, which keeps pages that nobody can use."""

    def _suspend(self, gang, line, step):
        super()._suspend(gang, line[1:] or line, step)


class EldestFirst(Scheduler):
    """Takes pages from whoever came first: two that need each other's pages send each other back for ever."""

    def _latest(self, gangs):
        return max(gangs, key=lambda gang: (gang.priority, -gang.number))


class NeverAsksAgain(Scheduler):
    """Leaves whoever found no pages to wait until somebody comes, even the first of all."""

    def _unqueue(self, sequence):
        turn = self._turn
        super()._unqueue(sequence)
        self._turn = turn

    def _enter(self, sequence, step):
        step.first = None
        return super()._enter(sequence, step)


class FreesNothing(Scheduler):
    """Sends gangs back and forgets to release what they hold."""

    def _send_back(self, sequence):
        sequence.lease = None
        super()._send_back(sequence)


@pytest.mark.parametrize("broken", [KeepsOne, EldestFirst, NeverAsksAgain, FreesNothing])
def test_a_broken_policy_is_noticed(broken: type[Scheduler]) -> None:
    with pytest.raises(AssertionError):
        run_machine(type(broken.__name__, (Machine,), {"kind": broken}), 60, shrink=False)
