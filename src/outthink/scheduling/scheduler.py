"""Continuous batching with chunked prefill, preemption and prefix sharing, over the paged cache.

The policy, in the order of `Scheduler.schedule`: sequences that run get their decodes first, then their prefill chunks,
oldest first; what room is left admits waiting ones, oldest first. When pages run out, branches that merely rest lose
theirs first (least recently used), then the youngest running sequence is sent back to wait. Both are recomputed later
from their tokens. The oldest sequence is never sent back, and goes before all others after a step in which it got
nothing, so every sequence finishes, whatever comes after it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from outthink.core.errors import UserError
from outthink.kv.cache import Copy, Lease, PagedCache


class Schedulable(Protocol):
    """What the scheduler knows of a sequence: its ``tokens``, its hold on pages (None where it has none), its age.

    ``reusable``: how many leading positions may come from the cache; the logits of those after it are wanted.
    """

    tokens: list[int]
    lease: Lease | None
    namespace: str
    arrival: int

    @property
    def reusable(self) -> int: ...


S = TypeVar("S", bound=Schedulable)


@dataclass(frozen=True)
class Limits:
    """``max_batch_tokens``: positions computed in one step. ``max_sequences``: sequences in one step."""

    max_batch_tokens: int = 512
    max_sequences: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} must be a whole number of at least 1.")


@dataclass(frozen=True)
class Slice(Generic[S]):
    """The next ``count`` positions of one sequence, after its pages in ``copies`` have been copied."""

    sequence: S
    start: int
    count: int
    copies: list[Copy]


@dataclass
class Scheduler(Generic[S]):
    """Holds every sequence that wants computing or keeps pages; decides, and touches no tensor."""

    cache: PagedCache
    limits: Limits = field(default_factory=Limits)
    waiting: list[S] = field(default_factory=list)
    running: list[S] = field(default_factory=list)
    resting: dict[S, None] = field(default_factory=dict)
    num_preemptions: int = 0
    _passed_over: S | None = None

    def add(self, sequence: S) -> None:
        """Queue a sequence whose tokens are to be computed; one that rests keeps its pages."""
        self.resting.pop(sequence, None)
        insort(self.running if sequence.lease else self.waiting, sequence, key=attrgetter("arrival"))

    def rest(self, sequence: S) -> None:
        """Take a sequence out of the queues; it keeps its pages until others need them."""
        self._unqueue(sequence)
        if sequence.lease is not None:
            self.resting[sequence] = None

    def drop(self, sequence: S) -> None:
        """Take a sequence out altogether and release its pages."""
        self._unqueue(sequence)
        self.resting.pop(sequence, None)
        self._release(sequence)

    def schedule(self, allow: Callable[[S, int, int], int] | None = None) -> list[Slice[S]]:
        """The slices of the next step. Reserves their pages, and may preempt.

        ``allow(sequence, start, count)``, if given, says how many of these positions may be computed now.
        """
        allow = allow or (lambda _sequence, _start, count: count)
        room, slices, filling = self.limits.max_batch_tokens, {}, set()
        preemptions = self.num_preemptions
        oldest = min((*self.running[:1], *self.waiting[:1]), key=attrgetter("arrival"), default=None)
        urgent = oldest if oldest is self._passed_over else None
        if urgent is not None and urgent.lease is None:
            self._admit(urgent)
        for sequence in sorted(self.running, key=lambda s: (s is not urgent, pending(s) > 1, s.arrival)):
            if len(slices) == self.limits.max_sequences:
                break
            if sequence.lease is not None:  # not preempted since the loop began
                room -= self._grant(sequence, room, allow, slices, filling, preempt=True)
        while self.waiting and room > 0 and len(self.running) < self.limits.max_sequences:
            sequence = self.waiting[0]
            if self.num_preemptions > preemptions:
                break  # what was just sent back must not push others out again in the same step
            self._admit(sequence)
            granted = self._grant(sequence, room, allow, slices, filling, preempt=False)
            if not granted and self._blocked(sequence, filling):
                self._send_back(sequence)
                break
            room -= granted
        self._passed_over = None if oldest in slices else oldest
        return list(slices.values())

    def commit(self, slices: Iterable[Slice[S]]) -> None:
        """Record that these slices have been computed."""
        for piece in slices:
            lease = piece.sequence.lease
            assert lease is not None
            self.cache.commit(lease, piece.sequence.tokens, piece.count)

    def leases(self) -> list[Lease]:
        """Every live lease."""
        return [s.lease for s in (*self.waiting, *self.running, *self.resting) if s.lease is not None]

    def check_integrity(self) -> None:
        """Raise AssertionError unless page accounting is exact and every sequence is in one place."""
        everyone = [*self.waiting, *self.running, *self.resting]
        assert len(set(map(id, everyone))) == len(everyone), "a sequence is queued twice"
        assert all(s.lease is None for s in self.waiting), "a waiting sequence holds pages"
        assert all(s.lease is not None for s in (*self.running, *self.resting)), "a running sequence holds no pages"
        self.cache.check_integrity(self.leases())

    def _grant(
        self,
        sequence: S,
        room: int,
        allow: Callable[[S, int, int], int],
        slices: dict[S, Slice[S]],
        filling: set,
        *,
        preempt: bool,
    ) -> int:
        """Give ``sequence`` a slice of at most ``room`` positions; how many it got."""
        lease = sequence.lease
        assert lease is not None
        key = None
        if self._at_boundary(lease):  # elsewhere there is nothing to move along, nor a page to begin
            self.cache.advance(lease, sequence.tokens, sequence.reusable)
            key = self._page_ahead(sequence)
        count = min(room, pending(sequence))
        if count <= 0 or (key is not None and key in filling):
            return 0  # another slice of this step computes the very same page: share it in the next step
        count = allow(sequence, lease.length, count)
        if count <= 0:
            return 0
        copies = self._reserve(sequence, count, slices, preempt=preempt)
        if copies is None:
            return 0
        if key is not None:
            filling.add(key)
        slices[sequence] = Slice(sequence, lease.length, count, copies)
        return count

    def _reserve(self, sequence: S, count: int, slices: dict[S, Slice[S]], *, preempt: bool) -> list[Copy] | None:
        lease = sequence.lease
        assert lease is not None
        while (copies := self.cache.reserve(lease, count)) is None:
            if self.resting:
                idle = next(iter(self.resting))
                del self.resting[idle]
                self._release(idle)
            elif preempt:
                victim = self.running[-1]  # the youngest, perhaps this very sequence
                self._preempt(victim)
                slices.pop(victim, None)
                if victim is sequence:
                    return None
            else:
                return None
        return copies

    def _admit(self, sequence: S) -> None:
        self.waiting.remove(sequence)
        sequence.lease = self.cache.lease(sequence.tokens, sequence.namespace, sequence.reusable)
        insort(self.running, sequence, key=attrgetter("arrival"))

    def _preempt(self, victim: S) -> None:
        self.num_preemptions += 1
        self._send_back(victim)

    def _send_back(self, sequence: S) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        insort(self.waiting, sequence, key=attrgetter("arrival"))

    def _blocked(self, sequence: S, filling: set) -> bool:
        """Whether nothing was granted for want of pages, rather than to share a page that is being filled."""
        return self._page_ahead(sequence) not in filling

    def _page_ahead(self, sequence: S) -> tuple[int, Sequence[int]] | None:
        lease = sequence.lease
        assert lease is not None
        return self.cache.next_key(lease, sequence.tokens) if self._at_boundary(lease) else None

    def _at_boundary(self, lease: Lease) -> bool:
        return lease.length == lease.node.depth * self.cache.page_size

    def _release(self, sequence: S) -> None:
        if sequence.lease is not None:
            self.cache.release(sequence.lease)
            sequence.lease = None

    def _unqueue(self, sequence: S) -> None:
        for queue in (self.running, self.waiting):
            if sequence in queue:
                queue.remove(sequence)


def pending(sequence: Schedulable) -> int:
    """Positions of ``sequence`` that have no KV yet."""
    return len(sequence.tokens) - (sequence.lease.length if sequence.lease is not None else 0)
