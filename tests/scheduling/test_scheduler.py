"""The policy by itself: who goes first, who waits, who is sent back, and that everybody finishes."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.kv import Lease, PagedCache
from outthink.scheduling import Gang, Limits, Scheduler, Slice, pending

SIZE = 4


@dataclass(eq=False)
class Line:
    """A sequence that wants ``more`` tokens decoded after its prompt."""

    tokens: list[int]
    arrival: int = 0
    more: int = 0
    lease: Lease | None = None
    namespace: str = ""
    computed: list[int] = field(default_factory=list)
    gang: Gang | None = None

    @property
    def reusable(self) -> int:
        return len(self.tokens) - 1


def make(num_pages: int = 32, batch: int = 64, sequences: int = 64, kind: type[Scheduler] = Scheduler) -> Scheduler:
    scheduler = kind(PagedCache(num_pages, SIZE), Limits(batch, sequences))
    scheduler.one = Gang()  # to which all belong that are not said to compete
    return scheduler


def add(scheduler: Scheduler, lines: list[Line]) -> list[Line]:
    for line in lines:
        line.gang = line.gang or scheduler.one
        scheduler.add(line)
    return lines


def distinct(count: int, length: int) -> list[Line]:
    return [Line([i + 1, *range(100, 99 + length)], arrival=i) for i in range(count)]


def compute(scheduler: Scheduler, slices: list[Slice], grow: bool = False) -> None:
    """What an engine does after a step: commit; with ``grow``, draw the next token of what is complete."""
    scheduler.commit(slices)
    for piece in slices:
        line = piece.sequence
        line.computed.extend(range(piece.start, piece.start + piece.count))
        if grow and pending(line) == 0:
            if line.more:
                line.more -= 1
                line.tokens.append(line.arrival + 7)
            else:
                scheduler.drop(line)
    scheduler.check_integrity()


def shape(slices: list[Slice]) -> list[tuple[int, int, int]]:
    return [(piece.sequence.arrival, piece.start, piece.count) for piece in slices]


def test_prompts_are_chunked_to_the_room_oldest_first() -> None:
    scheduler = make(batch=10)
    add(scheduler, distinct(3, 8)[::-1])
    first = scheduler.schedule()
    assert shape(first) == [(0, 0, 8), (1, 0, 2)]
    compute(scheduler, first)
    second = scheduler.schedule()
    assert shape(second) == [(1, 2, 6), (2, 0, 4)]
    compute(scheduler, second)
    assert shape(scheduler.schedule()) == [(2, 4, 4)]


def test_decodes_go_before_prompts() -> None:
    scheduler = make(batch=10)
    old, young = add(scheduler, [Line([*range(5)], 0), Line([50, 51, 52], 1)])
    compute(scheduler, scheduler.schedule())
    old.tokens += range(60, 80)
    young.tokens.append(9)
    assert shape(scheduler.schedule()) == [(1, 3, 1), (0, 5, 9)]


def test_no_more_sequences_than_allowed_share_a_step() -> None:
    scheduler = make(sequences=2)
    add(scheduler, distinct(5, 3))
    first = scheduler.schedule()
    assert len(first) == 2
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 3)
    compute(scheduler, first, grow=True)
    assert [arrival for arrival, *_ in shape(scheduler.schedule())] == [2, 3]


def test_what_rests_loses_its_pages_before_what_runs_longest_unused_first() -> None:
    scheduler = make(num_pages=6)
    resting = distinct(3, 5)
    for line in add(scheduler, resting):
        compute(scheduler, scheduler.schedule())
        scheduler.rest(line)
    scheduler.rest(resting[0])
    new = Line([77] * 9, 9)
    add(scheduler, [new])
    compute(scheduler, scheduler.schedule())
    assert [line.lease is None for line in resting] == [True, True, False]
    assert scheduler.num_preemptions == 0


def test_the_youngest_is_sent_back_and_later_recomputed() -> None:
    scheduler = make(num_pages=4)
    old, young = add(scheduler, distinct(2, 7))
    compute(scheduler, scheduler.schedule())
    old.tokens += [1, 2, 3]
    young.tokens += [1]
    slices = scheduler.schedule()
    assert shape(slices) == [(0, 7, 3)]
    assert (scheduler.running, scheduler.waiting, young.lease) == ([old], [young], None)
    assert scheduler.num_preemptions == 1
    compute(scheduler, slices)
    scheduler.drop(old)
    assert shape(scheduler.schedule()) in ([(1, 0, 8)], [(1, 4, 4)])


class ComputesThePreempted(Scheduler):
    """Keeps the slice of a sequence that lost its pages in the same step."""

    def _preempt_in(self, step, victim):
        self._preempt(victim)
        step.sent_back.add(victim)


def decode_then_preempt(kind: type[Scheduler]) -> list[Slice]:
    """A step in which the youngest is given a decode first, and then its pages go to an older one's prompt."""
    scheduler = make(num_pages=5, kind=kind)
    old, young = add(scheduler, distinct(2, 7))
    compute(scheduler, scheduler.schedule())
    old.tokens += range(11)
    young.tokens.append(1)
    return scheduler.schedule()


def test_a_slice_is_taken_back_with_the_pages() -> None:
    assert shape(decode_then_preempt(Scheduler)) == [(0, 7, 11)]
    assert len(decode_then_preempt(ComputesThePreempted)) == 2


def test_two_that_need_the_same_page_have_it_computed_once() -> None:
    scheduler = make()
    one, two = add(scheduler, [Line([*range(10), 1], 0), Line([*range(10), 2], 1)])
    first = scheduler.schedule()
    assert shape(first) == [(0, 0, 11)]
    compute(scheduler, first)
    second = scheduler.schedule()
    assert shape(second) == [(1, 8, 3)]
    compute(scheduler, second)
    assert one.lease is not None and two.lease is not None
    assert one.lease.pages[:2] == two.lease.pages[:2]


def test_what_may_not_be_computed_waits_and_holds_up_nobody_who_runs() -> None:
    scheduler = make(batch=8)
    poor, rich = add(scheduler, distinct(2, 12))
    compute(scheduler, scheduler.schedule())
    compute(scheduler, scheduler.schedule())
    assert (pending(poor), pending(rich)) == (0, 8)
    poor.tokens += [1] * 6
    allow = lambda line, start, count: min(count, 2) if line is poor and start == 12 else count * (line is rich)  # noqa: E731
    slices = scheduler.schedule(allow)
    assert sorted(shape(slices)) == [(0, 12, 2), (1, 4, 6)]
    compute(scheduler, slices)
    assert shape(scheduler.schedule(allow)) == [(1, 10, 2)]


def test_dropping_and_resting_leave_the_queues() -> None:
    scheduler = make(batch=4)
    running, waiting, resting = add(scheduler, distinct(3, 4))
    compute(scheduler, scheduler.schedule())
    scheduler.rest(waiting)
    assert (scheduler.waiting, list(scheduler.resting)) == ([resting], []), "nothing was computed, so nothing rests"
    compute(scheduler, scheduler.schedule())
    scheduler.rest(resting)
    assert (scheduler.running, list(scheduler.resting)) == ([running], [resting])
    for line in (running, waiting, resting):
        scheduler.drop(line)
        scheduler.drop(line)
        scheduler.check_integrity()
    assert not (scheduler.leases() or scheduler.running or scheduler.waiting or scheduler.resting)


class NeverUrgent(Scheduler):
    """Serves the oldest only when there is room."""

    def schedule(self, allow=None):
        self.one.passed_over = None
        return super().schedule(allow)


def steps_until_served(kind: type[Scheduler], limit: int = 300) -> int:
    """A prompt of 20 positions against a crowd that always has as many decodes as fit in a batch."""
    scheduler = make(batch=4, kind=kind)
    crowd = add(scheduler, [Line([i + 1], i, more=5) for i in range(4)])
    late = Line([77] * 20, 10)
    for step in range(limit):
        if step == 3:
            add(scheduler, [late])
        compute(scheduler, scheduler.schedule(), grow=True)
        if len(late.computed) >= 20:
            return step
        for i, line in enumerate(crowd):
            if line.lease is None and line not in scheduler.waiting:
                crowd[i] = Line([i + 1], 100 + 4 * step + i, more=5)
                crowd[i].lease = scheduler.cache.lease(crowd[i].tokens)  # as a fork has: it need not be admitted
                add(scheduler, [crowd[i]])
    return limit


def test_the_oldest_is_served_however_many_come_after_it() -> None:
    assert steps_until_served(Scheduler) < 30
    assert steps_until_served(NeverUrgent) == 300


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 24), st.integers(0, 16), st.integers(0, 2)), min_size=1, max_size=10),
    st.integers(11, 20),
    st.sampled_from([1, 3, 10, 64]),
    st.sampled_from([1, 2, 64]),
)
def test_everybody_finishes_and_every_position_is_computed(
    wishes: list[tuple[int, int, int]], num_pages: int, batch: int, sequences: int
) -> None:
    scheduler = make(num_pages, batch, sequences)
    lines = [Line([stem] * length, i, more) for i, (length, more, stem) in enumerate(wishes)]
    add(scheduler, lines)
    bound = 3 * sum(length + more + 1 for length, more, _ in wishes) ** 2
    for step in range(bound):
        if not (scheduler.running or scheduler.waiting):
            break
        slices = scheduler.schedule()
        assert sum(piece.count for piece in slices) <= batch
        assert len(slices) <= sequences
        assert slices or step < bound - 1
        compute(scheduler, slices, grow=True)
    assert not (scheduler.running or scheduler.waiting), "some never finish"
    for line, (length, more, _) in zip(lines, wishes, strict=True):
        assert len(line.tokens) == length + more
        assert max(line.computed) == length + more - 1, "the last position is never found in the cache"


@pytest.mark.parametrize("broken", ["lease", "twice", "waiting"])
def test_a_sequence_in_the_wrong_place_is_noticed(broken: str) -> None:
    scheduler = make(batch=4)
    running, waiting = add(scheduler, distinct(2, 4))
    compute(scheduler, scheduler.schedule())
    if broken == "lease":
        running.lease = None
    elif broken == "twice":
        scheduler.resting[running] = None
    else:
        waiting.lease = scheduler.cache.lease([1])
    with pytest.raises(AssertionError):
        scheduler.check_integrity()
