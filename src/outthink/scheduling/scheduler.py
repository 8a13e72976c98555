"""Continuous batching with chunked prefill, fair shares, preemption and prefix sharing, over the paged cache.

**Steps** are dealt to tenants, and a tenant's part to its gangs, by weighted max-min fairness (`scheduling/gang.py`);
what some leave, others use. Let ``K`` be the smaller of the two `Limits`, ``T`` the tenants and ``G`` the gangs of one
tenant that want something, of equal priority, and ``P = floor(K / T)``. A gang that wants no more than ``P / G``
positions gets them in every step: so a chat gets its token, however many branches the others have. Where ``G > P``, it
gets one in every ``ceil(G / P)`` steps. Of ``L`` gangs that want more than their part, four at a time share what is
left, for four steps each, in the order in which their last turns ended; so none waits for more than ``4 ceil(L / 4)``
steps. Within a gang decodes go first, then prompts in chunks, oldest first; the oldest sequence goes before all others
of its gang after a step in which it got nothing.

**Pages** that run out are taken first from branches that merely rest, least recently used; then from the gangs of the
highest priority number, where that is above the asker's. Among equals there is a share that each may count on, its part
of the pages were there one gang more. A gang within it takes from those that hold more: the latest of these gives up
its youngest sequence. A gang that holds more takes from nobody within theirs: if others hold more too, the latest of
all these is preempted, perhaps the asker; if none does, it gives up its own youngest. If all hold no more than their
share, or there is but one sequence to take, the latest of all gangs is preempted. A gang is preempted as a whole: all
its pages are free then but for those that others hold too. What is taken is recomputed later from its tokens.

A sequence that waits is let in when there is room for all of it, or within its gang's share; of a gang that was
preempted as a whole, when there is room for as many pages as it held. It is not asked again before some sequence has
come or gone. The first gang of all, in the order of priority and arrival, is never preempted by others, and its oldest
sequence never at all; that one may take whatever it needs, and a sequence that could not fit alone is refused at once.
So every gang finishes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic

from outthink.kv.cache import Lease, PagedCache
from outthink.scheduling.gang import Gang, deal
from outthink.scheduling.step import Limits, S, Slice, Step, Tenant, Work, by_gang, pending, works_of

MOST_LARGE = 4  # gangs of a tenant that share a step among those that want more than their part of it
_AGE = attrgetter("arrival")


@dataclass
class Scheduler(Generic[S]):
    """Holds every sequence that wants computing or keeps pages; decides, and touches no tensor.

    ``num_preemptions``: sequences sent back for want of pages; ``num_suspensions``: gangs sent back as a whole.
    """

    cache: PagedCache
    limits: Limits = field(default_factory=Limits)
    waiting: list[S] = field(default_factory=list)
    running: list[S] = field(default_factory=list)
    resting: dict[S, None] = field(default_factory=dict)
    num_preemptions: int = 0
    num_suspensions: int = 0
    num_steps: int = 0
    _turn: int = 0  # counts what comes and goes: until the next, whoever found no pages finds none

    def add(self, sequence: S) -> None:
        """Queue a sequence whose tokens are to be computed; one that rests keeps its pages."""
        self.resting.pop(sequence, None)
        if sequence.gang.served < 0:
            sequence.gang.served = sequence.gang.turn = self.num_steps  # behind those that wait already
        self._turn += 1
        insort(self.running if sequence.lease else self.waiting, sequence, key=_AGE)

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
        self.num_steps += 1
        works, first = works_of(self.running, self.waiting, self._turn)
        if first is None:
            return []
        step = Step(allow or _all, first)
        room, slots = self.limits.max_batch_tokens, self.limits.max_sequences

        def serve(work: Work[S], room: int, slots: int) -> tuple[int, int]:
            return self._serve(work, room, slots, step)

        def share(tenant: Tenant[S], room: int, slots: int) -> tuple[int, int]:
            return deal(tenant.works, room, slots, serve, MOST_LARGE)

        scarce = sum(work.demand for work in works) > room or sum(len(work.queue) for work in works) > slots
        if scarce and len(works) > 1:
            tenants: dict[str, Tenant[S]] = {}
            for work in works:
                tenants.setdefault(work.gang.tenant, Tenant([])).works.append(work)
            got = deal(list(tenants.values()), room, slots, share)
            room, slots = room - got[0], slots - got[1]
            works.sort(key=attrgetter("served"))
        for work in works:  # what is left over is for whoever can use it
            got = serve(work, room, slots)
            room, slots = room - got[0], slots - got[1]
            work.gang.passed_over = None if work.oldest in step.slices else work.oldest
        return list(step.slices.values())

    def commit(self, slices: Iterable[Slice[S]]) -> None:
        """Record that these slices have been computed."""
        for piece in slices:
            lease = piece.sequence.lease
            assert lease is not None
            self.cache.commit(lease, piece.sequence.tokens, piece.count)

    @property
    def num_gangs(self) -> int:
        """How many gangs want something."""
        return len({s.gang for s in (*self.running, *self.waiting)})

    @property
    def longest_wait(self) -> int:
        """Steps since the gang that waits longest was last given anything; 0 where nobody wants anything."""
        return max((self.num_steps - s.gang.served for s in (*self.running, *self.waiting)), default=0)

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

    # ---- a gang's part of a step -----------------------------------------------------------------------------------

    def _serve(self, work: Work[S], room: int, slots: int, step: Step[S]) -> tuple[int, int]:
        """Give a gang up to ``room`` positions in up to ``slots`` slices; what it got of both."""
        queue, left, free = work.queue, room, slots
        while work.at < len(queue) and left > 0 and free > 0:
            sequence = queue[work.at]
            work.at += 1
            if sequence in step.sent_back:
                continue
            enters = sequence.lease is None
            if enters and not self._enter(sequence, step):
                break
            granted = self._grant(sequence, left, step, modest=enters and sequence is not step.first)
            if enters and not granted and sequence.lease is not None and self._page_ahead(sequence) not in step.filling:
                self._send_back(sequence)  # not to hold what it cannot use
                break
            left -= granted
            free -= granted > 0
        if free < slots:
            gang = work.gang
            gang.served = self.num_steps
            gang.used += 1
            if gang.used >= MOST_LARGE:  # each time it got at least that part of what there was
                gang.turn, gang.used = self.num_steps, 0
        return room - left, slots - free

    def _grant(self, sequence: S, room: int, step: Step[S], *, modest: bool) -> int:
        """Give ``sequence`` a slice of at most ``room`` positions; how many it got."""
        lease = sequence.lease
        assert lease is not None
        key = None
        if self._at_boundary(lease):  # elsewhere there is nothing to move along, nor a page to begin
            self.cache.advance(lease, sequence.tokens, sequence.reusable)
            key = self._page_ahead(sequence)
        count = min(room, pending(sequence))
        if count <= 0 or (key is not None and key in step.filling):
            return 0  # another slice of this step computes the very same page: share it in the next step
        count = step.allow(sequence, lease.length, count)
        if count <= 0:
            return 0
        while (copies := self.cache.reserve(lease, count)) is None:
            if not self._make_room(sequence, step, modest=modest):
                return 0
        if key is not None:
            step.filling.add(key)
        step.slices[sequence] = Slice(sequence, lease.length, count, copies)
        return count

    def _enter(self, sequence: S, step: Step[S]) -> bool:
        """Let a sequence that waits begin with what the cache has of it, if it has the right to."""
        gang = sequence.gang
        if sequence is not step.first:
            if step.sent_back or gang.blocked == self._turn:
                return False
            if not self._may_enter(sequence):
                gang.blocked = self._turn
                return False
        gang.suspended = 0
        self.waiting.remove(sequence)
        sequence.lease = self.cache.lease(sequence.tokens, sequence.namespace, sequence.reusable)
        insort(self.running, sequence, key=_AGE)
        return True

    # ---- pages -----------------------------------------------------------------------------------------------------

    def _may_enter(self, sequence: S) -> bool:
        """Whether there is room for all of a sequence, or of its suspended gang; or within its gang's equal share."""
        gang, size = sequence.gang, self.cache.page_size
        need = gang.suspended
        if not need:
            found = self.cache.peek(sequence.tokens, sequence.namespace)
            need = -(-len(sequence.tokens) // size) - found // size
        if need <= self.cache.num_free:
            return True
        held = by_gang(s for s in self.running if s.gang.priority <= gang.priority)
        taken = self._num_held(s for line in held.values() for s in line)
        if need <= self.cache.num_pages - taken:
            return True
        own = held.setdefault(gang, [])
        return need + self._num_held(own) <= self._share(held)

    def _make_room(self, sequence: S, step: Step[S], *, modest: bool) -> bool:
        """Have somebody give up pages for ``sequence``; False where it must wait, perhaps without its own.

        ``modest``: it takes from its equals only as far as its gang's share.
        """
        if self.resting:
            idle = next(iter(self.resting))
            del self.resting[idle]
            self._release(idle)
            return True
        gang, held = sequence.gang, by_gang(self.running)
        last = self._latest(held)
        if last.priority > gang.priority:
            self._suspend(last, held[last], step)
            return True
        over = [
            each for each in held if each.priority == gang.priority and self._num_held(held[each]) > self._share(held)
        ]
        if gang not in over and (large := [each for each in over if len(held[each]) > 1]):
            self._preempt_in(step, held[self._latest(large)][-1])
        elif modest:
            gang.blocked = self._turn
            return False
        elif over == [gang] and len(held[gang]) > 1:
            self._preempt_in(step, held[gang][-1])
        else:
            last = self._latest(over) if len(over) > 1 and gang in over else last
            self._suspend(last, held[last], step)
        return sequence.lease is not None

    def _share(self, held: Collection[Gang]) -> int:
        """The pages that a gang may count on beside these: an equal part, were there one more of them."""
        return self.cache.num_pages // (len(held) + 1)

    def _latest(self, gangs: Iterable[Gang]) -> Gang:
        """Who gives up pages first: of the highest priority number, the gang that came last."""
        return max(gangs, key=lambda gang: gang.rank)

    def _suspend(self, gang: Gang, line: list[S], step: Step[S]) -> None:
        """Preempt a gang as a whole. All its pages are free then but for those that others hold too."""
        self.num_suspensions += 1
        gang.suspended = self._num_held(line)
        for sequence in line:
            self._preempt_in(step, sequence)

    def _preempt_in(self, step: Step[S], victim: S) -> None:
        self._preempt(victim)
        step.slices.pop(victim, None)
        step.sent_back.add(victim)

    def _preempt(self, victim: S) -> None:
        self.num_preemptions += 1
        self._send_back(victim)

    def _send_back(self, sequence: S) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        insort(self.waiting, sequence, key=_AGE)

    def _num_held(self, sequences: Iterable[S]) -> int:
        return self.cache.num_leased(s.lease for s in sequences if s.lease is not None)

    def _page_ahead(self, sequence: S) -> tuple[int, object] | None:
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
        self._turn += 1
        for queue in (self.running, self.waiting):
            if sequence in queue:
                queue.remove(sequence)


def _all(_sequence: object, _start: int, count: int) -> int:
    return count
