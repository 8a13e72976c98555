"""Progress: what is counted, when it is told, and how far may be drawn without counting."""

import math
from threading import Event

from hypothesis import given
from hypothesis import strategies as st

from outthink.core.progress import Progress


def test_the_longest_child_counts() -> None:
    progress = Progress(lambda: None)
    progress.advance(0, 3)
    progress.advance(1, 2)
    progress(1, "text")
    assert progress.longest == 3
    progress(1, "")
    assert progress.longest == 4


def test_what_is_awaited_is_told_once_and_what_is_there_already_at_once() -> None:
    told = []
    progress = Progress(lambda: told.append(progress.longest))
    progress.advance(0, 5)
    assert told == [] and progress.room == math.inf
    progress.wait_beyond(4)
    assert told == [5] and progress.room == math.inf
    progress.wait_beyond(7)
    assert progress.room == 3
    for _ in range(4):
        progress.advance(0, 1)
    assert told == [5, 8]
    progress.wait_beyond(20)
    progress.wait_beyond(math.inf)
    progress.advance(0, 30)
    assert told == [5, 8]


def test_whoever_draws_hears_of_what_is_awaited_sooner() -> None:
    progress, drawing = Progress(lambda: None), Event()
    progress.watch(drawing)
    progress.wait_beyond(10)
    assert drawing.is_set()
    drawing.clear()
    progress.wait_beyond(12)
    assert not drawing.is_set()
    progress.wait_beyond(9)
    assert drawing.is_set()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 9)), max_size=40))
def test_nobody_who_keeps_to_the_room_draws_past_what_is_awaited(acts: list[tuple[bool, int, int]]) -> None:
    awaited: list[float] = []
    progress = Progress(lambda: awaited.clear())
    for waits, child, number in acts:
        if waits:
            awaited[:] = [progress.longest + number - 3]
            progress.wait_beyond(awaited[0])
        else:
            progress.advance(child, int(min(number, progress.room)))
        assert progress.longest <= awaited[0] if awaited else progress.room == math.inf
