"""Two engines on threads of their own that spend one budget: never more than there is."""

import asyncio
import threading
import time
from itertools import pairwise

import pytest

from engine.fakes import FakeVocabulary, HashBackend
from engine.world import make_engine
from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Until
from outthink.core.turns import Turns
from outthink.engine.thread import EngineThread
from outthink.lm.joint import JointLM
from outthink.lm.local import LocalLM

PATIENCE = 60.0


class Meeting:
    """Whoever computes first waits until the other computes too, or is in line for its turn."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.inside, self.met, self.together = ledger, 0, threading.Event(), False
        self.lock = threading.Lock()

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            self.together |= self.inside == 2
        end = time.monotonic() + PATIENCE
        while not self.met.is_set():
            turns = self.ledger.turns
            if self.together or (turns is not None and turns.waiting):
                self.met.set()
            assert time.monotonic() < end
            time.sleep(0.001)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1


class Meets(HashBackend):
    """A backend that goes to a meeting before it computes."""

    meeting: Meeting

    def run(self, batch):
        self.meeting.enter()
        try:
            return super().run(batch)
        finally:
            self.meeting.leave()


async def spend(ledger: Ledger) -> tuple[int, bool]:
    """Two models read a prompt of 30 tokens each, on ``ledger``: what was spent, and whether they did at once."""
    meeting, threads, lms = Meeting(ledger), [], []
    for _ in range(2):
        backend = Meets(200, 4)
        backend.meeting = meeting
        threads.append(EngineThread(make_engine(200, 4, backend=backend)))
        lms.append(LocalLM(threads[-1], FakeVocabulary(), ledger))  # type: ignore[arg-type]
    try:
        joint = JointLM(*lms)
        roots = [await lm.root([1, 2, 3] * 10) for lm in joint.lms]
        await asyncio.gather(*(root.extend(2, Until(4, ignore_eos=True)) for root in roots))
        for root in roots:
            await root.close()
    finally:
        for thread in threads:
            thread.close()
    return ledger.bill.tokens, meeting.together


@pytest.mark.parametrize("part", [False, True], ids=["the whole", "a slice"])
async def test_engines_on_two_threads_never_spend_more_than_there_is(part):
    ledger = Ledger().slice(Budget(tokens=40)) if part else Ledger(Budget(tokens=40))
    spent, together = await spend(ledger)
    assert 30 < spent <= 40
    assert not together


async def test_without_turns_they_would(monkeypatch):
    monkeypatch.setattr(Ledger, "take_turns", lambda self: None)
    spent, together = await spend(Ledger(Budget(tokens=40)))
    assert together
    assert spent > 40


def test_turns_go_round():
    """Two that always want another turn have them alternately, and never at once."""
    turns, order, inside = Turns(), [], []

    def work(name):
        for _ in range(50):
            with turns:
                inside.append(name)
                assert inside == [name]
                end = time.monotonic() + PATIENCE
                while len(order) < 99 and not turns.waiting:  # until the other is in line again
                    assert time.monotonic() < end
                    time.sleep(0)
                order.append(name)
                inside.clear()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(order) == 100
    assert all(one != next_one for one, next_one in pairwise(order))


def test_one_thread_takes_no_turns():
    thread = EngineThread(make_engine(50, 4))
    ledger = Ledger(Budget(tokens=9))
    JointLM(*(LocalLM(thread, FakeVocabulary(), ledger) for _ in range(2)))  # type: ignore[arg-type]
    assert ledger.turns is None
    thread.close()
