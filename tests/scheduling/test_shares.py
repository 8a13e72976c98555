"""How a step is dealt out: weighted max-min shares, a bound on every wait, and trees beside chats."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.kv import PagedCache
from outthink.scheduling import Gang, Limits, Scheduler
from outthink.scheduling.gang import deal
from scheduling.test_scheduler import Line, compute


@dataclass(eq=False)
class Wish:
    """A party that wants ``demand`` positions, a sequence each; ``got`` is what it was given."""

    weight: float
    demand: int
    served: int = 0
    turn: int = 0
    got: int = 0


def dealt(wishes: list[Wish], room: int, slots: int) -> int:
    def serve(wish: Wish, room: int, slots: int) -> tuple[int, int]:
        wish.got = min(wish.demand, room, slots)
        return wish.got, wish.got

    for wish in wishes:
        wish.got = 0
    used, slices = deal(wishes, room, slots, serve)
    assert used == slices == sum(wish.got for wish in wishes)
    return used


def max_min(wishes: list[Wish], room: int) -> list[Fraction]:
    """The exact weighted max-min shares: raise the water until the room is used or all have what they want."""
    shares, left, thirsty = {wish: Fraction(0) for wish in wishes}, Fraction(room), set(wishes)
    while thirsty and left > 0:
        total = sum(Fraction(wish.weight) for wish in thirsty)
        level = min(left / total, *((wish.demand - shares[wish]) / Fraction(wish.weight) for wish in thirsty))
        for wish in thirsty:
            shares[wish] += level * Fraction(wish.weight)
        left -= level * total
        thirsty = {wish for wish in thirsty if shares[wish] < wish.demand}
    return [shares[wish] for wish in wishes]


WISHES = st.lists(st.builds(Wish, st.sampled_from([0.25, 1.0, 1.0, 4.0]), st.integers(1, 300)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=300)
@given(WISHES, st.integers(12, 512), st.integers(12, 512))
def test_shares_are_max_min_to_within_rounding_and_nothing_is_left_that_is_wanted(
    wishes: list[Wish], room: int, slots: int
) -> None:
    used = dealt(wishes, room, slots)
    assert used == min(room, slots, sum(wish.demand for wish in wishes)), "what some leave, others use"
    for wish, share in zip(wishes, max_min(wishes, min(room, slots)), strict=True):
        assert wish.got >= min(wish.demand, int(share) - len(wishes)), "far below its share"
        assert wish.got >= 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_of_more_parties_than_places_each_is_served_in_its_turn(demands: list[int], room: int, slots: int) -> None:
    wishes = [Wish(1.0, demand) for demand in demands]
    bound, last = ceil(len(wishes) / min(room, slots)), dict.fromkeys(wishes, 0)
    for turn in range(1, 4 * bound + 2):
        dealt(wishes, room, slots)
        for wish in wishes:
            if wish.got:
                last[wish] = wish.served = turn
            assert turn - last[wish] < bound, "somebody waits longer than ceil(n / K) steps"


def test_equal_parties_get_equal_parts_and_a_priority_less_is_twice_as_much() -> None:
    equal = [Wish(1.0, 999) for _ in range(4)]
    dealt(equal, 512, 256)
    assert [wish.got for wish in equal] == [64] * 4
    weighted = [Wish(Gang(priority).weight, 999) for priority in (-1, 0, 1)]
    dealt(weighted, 700, 700)
    assert [wish.got for wish in weighted] == [400, 200, 100]


# ---- trees beside chats ---------------------------------------------------------------------------------------------


def crowd(gang: Gang, count: int, more: int, first: int, prompt: int = 3) -> list[Line]:
    """Branches of one gang, with nothing in common but the gang."""
    return [Line([first + i, *range(100, 99 + prompt)], first + i, more, gang=gang) for i in range(count)]


class Apart(Scheduler):
    """Has every sequence compete for itself: shares by sequence, as if there were no gangs."""

    def add(self, sequence):
        sequence.gang = Gang(number=sequence.arrival)
        super().add(sequence)


class FirstCome(Scheduler):
    """Has everybody be one gang: whoever came first is served first."""

    def add(self, sequence):
        sequence.gang = self.one
        super().add(sequence)

    one = Gang()


def waits(
    kind: type[Scheduler], tree: int, chats: int, batch: int, sequences: int, tenants: int = 1, steps: int = 400
) -> list[int]:
    """The steps that each of ``chats``, beside a tree of branches, at most waits for a token."""
    scheduler = kind(PagedCache(60 * (tree + chats), 4), Limits(batch, sequences))
    for line in crowd(Gang(number=0), tree, 200, 0):
        scheduler.add(line)
    for _ in range(3 + tree // min(batch // 3 or 1, sequences)):
        compute(scheduler, scheduler.schedule(), grow=True)
    lines = []
    for i in range(chats):
        lines += crowd(Gang(tenant=str(i % tenants) if tenants > 1 else "", number=1 + i), 1, 40, 1000 + i, 1)
        scheduler.add(lines[-1])
    gaps, last = [0] * chats, [0] * chats
    for step in range(1, steps):
        slices = scheduler.schedule()
        alive = [line in scheduler.running or line in scheduler.waiting for line in lines]
        for piece in slices:
            if piece.sequence in lines:
                last[lines.index(piece.sequence)] = step
        gaps = [max(gap, step - at) if on else gap for gap, at, on in zip(gaps, last, alive, strict=True)]
        compute(scheduler, slices, grow=True)
        if not any(alive):
            break
    return [gap + 1 for gap in gaps]


@pytest.mark.parametrize(
    ("tree", "chats", "batch", "sequences", "tenants"),
    [(64, 8, 64, 32, 1), (300, 8, 128, 64, 1), (64, 30, 16, 8, 1), (64, 20, 32, 16, 3), (40, 3, 1, 1, 1)],
)
def test_a_chat_beside_a_tree_waits_no_longer_than_the_formula_says(
    tree: int, chats: int, batch: int, sequences: int, tenants: int
) -> None:
    places = min(batch, sequences) // (tenants + (tenants > 1))  # the tree is of tenant "" then
    gangs = -(-chats // tenants) + (tenants == 1)
    assert max(waits(Scheduler, tree, chats, batch, sequences, tenants)) <= ceil(gangs / places)


@pytest.mark.parametrize("broken", [Apart, FirstCome])
def test_without_gangs_a_tree_starves_the_chats(broken: type[Scheduler]) -> None:
    broken.one = Gang()
    assert max(waits(broken, 300, 8, 128, 64, steps=30)) > ceil(9 / 64)


def test_a_tree_alone_has_the_whole_machine_and_beside_an_idle_chat_all_but_that() -> None:
    scheduler = Scheduler(PagedCache(4000, 4), Limits(512, 256))
    for line in crowd(Gang(number=0), 300, 50, 0, prompt=1):
        scheduler.add(line)
    assert len(scheduler.schedule()) == 256
    scheduler.add(*crowd(Gang(number=1), 1, 5, 900))
    slices = scheduler.schedule()
    assert len(slices) == 256 and sum(piece.sequence.arrival == 900 for piece in slices) == 1


def test_a_long_prompt_takes_its_share_and_no_more_while_others_decode() -> None:
    scheduler = Scheduler(PagedCache(4000, 4), Limits(64, 64))
    tree = crowd(Gang(number=0), 60, 50, 0, prompt=1)
    for line in tree:
        scheduler.add(line)
    compute(scheduler, scheduler.schedule(), grow=True)
    scheduler.add(Line([7] * 400, 900, gang=Gang(number=1)))
    for _ in range(9):
        slices = scheduler.schedule()
        by_gang = [sum(p.count for p in slices if (p.sequence.arrival == 900) is long) for long in (False, True)]
        assert by_gang == [32, 32], "half of 64 each"
        compute(scheduler, slices, grow=True)


class NoTurns(Scheduler):
    """Lets whoever began go on for ever."""

    def schedule(self, allow=None):
        for line in (*self.running, *self.waiting):
            line.gang.turn = line.gang.number
        return super().schedule(allow)


@pytest.mark.parametrize(("kind", "kept"), [(Scheduler, True), (NoTurns, False)])
@pytest.mark.parametrize(("trees", "batch", "sequences"), [(12, 64, 32), (5, 16, 16), (9, 60, 7)])
def test_of_many_trees_each_has_its_turn(
    kind: type[Scheduler], kept: bool, trees: int, batch: int, sequences: int
) -> None:
    scheduler = kind(PagedCache(20_000, 4), Limits(batch, sequences))
    for number in range(trees):
        for line in crowd(Gang(number=number), 50, 60, 100 * number, 1):
            scheduler.add(line)
    longest = 0
    for _ in range(60):
        compute(scheduler, scheduler.schedule(), grow=True)
        longest = max(longest, scheduler.longest_wait)
    assert (longest < 4 * ceil(trees / 4)) == kept


def steps_to_first_token(prompts: int, length: int, batch: int) -> list[int]:
    """When each of ``prompts`` chats that come at one time has its prompt computed, in steps."""
    scheduler = Scheduler(PagedCache(40 * prompts, 4), Limits(batch, 64))
    lines = [crowd(Gang(number=i), 1, 0, i, length)[0] for i in range(prompts)]
    for line in lines:
        scheduler.add(line)
    done: dict[Line, int] = {}
    while len(done) < prompts:
        slices = scheduler.schedule()
        assert sum(piece.count for piece in slices) == min(batch, sum(map(pending_of, lines))), "room was wasted"
        compute(scheduler, slices)
        done |= {line: scheduler.num_steps for line in lines if line not in done and pending_of(line) == 0}
    return [done[line] for line in lines]


def pending_of(line: Line) -> int:
    return len(line.tokens) - (line.lease.length if line.lease else 0)


def test_prompts_that_come_together_are_done_one_after_the_other_and_not_all_at_last() -> None:
    steps = steps_to_first_token(prompts=32, length=64, batch=128)
    assert max(steps) == 16, "32 x 64 positions, 128 a step"
    assert sum(steps) / len(steps) <= 10, "half of them are done after about half of the steps"
    assert steps == sorted(steps), "first come, first served, among equals"


def test_a_short_prompt_does_not_wait_for_long_ones() -> None:
    scheduler = Scheduler(PagedCache(4000, 4), Limits(64, 64))
    for i in range(9):
        scheduler.add(*crowd(Gang(number=i), 1, 0, i, 500))
    compute(scheduler, scheduler.schedule())
    scheduler.add(*crowd(Gang(number=9), 1, 0, 9, 6))
    slices = scheduler.schedule()
    assert [piece.count for piece in slices if piece.sequence.arrival == 9] == [6]
    assert len(slices) == 5, "and four of the long ones share the rest"


def test_tenants_have_equal_parts_however_many_gangs_they_bring() -> None:
    scheduler = Scheduler(PagedCache(4000, 4), Limits(60, 60))
    for i in range(9):
        for line in crowd(Gang(tenant="many", number=i), 20, 50, 100 * i, prompt=1):
            scheduler.add(line)
    for line in crowd(Gang(tenant="one", number=9), 50, 50, 900, prompt=1):
        scheduler.add(line)
    slices = scheduler.schedule()
    assert sum(piece.sequence.arrival >= 900 for piece in slices) == 30


class NewcomersFirst(Scheduler):
    """Takes a gang that was never served for one that has waited longest."""

    def add(self, sequence):
        super().add(sequence)
        if sequence.gang.served == self.num_steps:
            sequence.gang.served = -1


@pytest.mark.parametrize(("kind", "served"), [(Scheduler, True), (NewcomersFirst, False)])
def test_a_stream_of_newcomers_does_not_go_before_who_waits(kind: type[Scheduler], served: bool) -> None:
    scheduler = kind(PagedCache(4000, 4), Limits(2, 2))
    [old] = crowd(Gang(number=0), 1, 30, 0)
    scheduler.add(old)
    for number in range(1, 121):
        scheduler.add(*crowd(Gang(number=number), 1, 0, 10 + number, 1))
        if number % 2 == 0:
            compute(scheduler, scheduler.schedule(), grow=True)
    assert (old.more < 20) == served
