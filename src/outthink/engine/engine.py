"""The engine: one tree of sequences over one paged cache, computed a step at a time.

`Engine.step` is the whole story. Everything in this module runs on the stepping thread; others talk to it through
`submit`. See `engine/thread.py` for the thread and `lm/local.py` for the handles that strategies hold.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Tokens
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from outthink.engine.ahead import Ahead, Interrupt
from outthink.engine.billing import Costs, Draw, Purse, Stats, bill, payable, unpayable
from outthink.engine.damage import damaged, tasks_of
from outthink.engine.gangs import Gangs
from outthink.engine.growth import Growth, Vocabulary, grown_by, num_unborn
from outthink.engine.pack import pack, page_copies
from outthink.engine.reading import Readings
from outthink.engine.sequence import Extend, Reading, Sequence, Task
from outthink.kernels.step import Backend
from outthink.kv import PagedCache
from outthink.scheduling import Limits, Scheduler, Slice, pending


class Engine:
    """Schedules, computes, samples and settles. Not thread-safe but for `submit`, `interrupt` and `has_inbox`."""

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        costs: Costs,
        max_positions: int,
        limits: Limits | None = None,
        scheduler: Scheduler[Sequence] | None = None,
    ) -> None:
        self.backend, self.vocabulary, self.costs = backend, vocabulary, costs
        self.max_positions = min(max_positions, (backend.num_pages - 1) * backend.page_size)
        cache = PagedCache(backend.num_pages, backend.page_size)
        self.scheduler: Scheduler[Sequence] = scheduler or Scheduler(cache, limits or Limits())
        self.cache = self.scheduler.cache
        self.stats = Stats()
        self.observers: list[Callable[[], None]] = []  # told when pages for new tokens are held, and none is freed yet
        self.alone = True  # whether no other engine waits for the thread; told by who steps it
        self._inbox: deque[Callable[[], None]] = deque()
        self._ready: list[Extend | Reading] = []
        self._tasks: dict[Task, None] = {}
        self._roots: dict[tuple[str, tuple[int, ...]], Sequence] = {}
        self._arrivals = itertools.count()
        self._gangs = Gangs(self._arrivals)
        self._interrupt = Interrupt()
        self.growth = Growth(backend, vocabulary, self.scheduler, self.stats, self._grown, self._fail_task)
        self._readings = Readings(self.scheduler, self.open_child, self.close, self._end, costs)
        decoder, parts = self.growth.decoder, (self.scheduler, self.growth, self.stats, self._interrupt, self.observers)
        self._ahead = None if decoder is None else Ahead(backend, decoder, *parts)
        self._broken: BaseException | None = None

    # ---- one turn -------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take what was asked, schedule, run, sample, settle. Returns whether there may be more to do.

        Where all that is wanted is one token after another, several such steps at once: see `Ahead`. Where engines on
        several threads spend one budget (`Ledger.take_turns`), they step one at a time.
        """
        self.step_inbox()
        found = {ledger.turns for ledger in {task.ledger for task in self._tasks}} - {None}
        if not found:
            return self._step()
        with ExitStack() as stack:
            for turns in sorted(filter(None, found), key=lambda each: each.number):
                stack.enter_context(turns)
            return self._step(shared=True)

    def _step(self, *, shared: bool = False) -> bool:
        """Schedule, run, sample, settle; ``shared``: somebody else may be waiting for a turn."""
        for task in unpayable(self._tasks):
            self._cut(task, "budget")
        if self._ahead is not None and not self._ready and self._ahead.run(self.costs, one=shared or not self.alone):
            return self.busy
        slices = self.scheduler.schedule(Purse().allow)
        self.stats.steps += bool(slices)
        if slices:
            batch, first_rows = pack(slices)
            if (copies := page_copies(slices)) is not None:
                self.backend.copy_pages(*copies)
            for look in self.observers:
                look()
            logits = self.backend.run(batch)
            bill(slices, self.costs, self.stats)
            self._fail_damaged(slices, logits, batch.logit_rows)
            sound = [(piece, row) for piece, row in zip(slices, first_rows, strict=True) if piece.sequence.lease]
            self.scheduler.commit(piece for piece, _ in sound)
            draws = self._settle_slices(sound, logits)
        else:
            draws = []
        draws += self._start_ready()
        if draws:
            self.growth.draw(draws)
        return self.busy

    # ---- what others ask (through `submit`) ------------------------------------------------------------------------

    def submit(self, command: Callable[[], None]) -> None:
        """Have ``command`` run on the stepping thread, between steps. Safe to call from any thread."""
        self._inbox.append(command)
        self._interrupt.set()

    def interrupt(self) -> None:
        """Have `step` come back after what is being computed. Safe to call from any thread."""
        self._interrupt.set()

    @property
    def has_inbox(self) -> bool:
        return bool(self._inbox)

    @property
    def broken(self) -> bool:
        """Whether the engine has stopped for good."""
        return self._broken is not None

    @property
    def failure(self) -> BaseException | None:
        """Why the engine has stopped for good; None while it goes on."""
        return self._broken

    @property
    def busy(self) -> bool:
        """Whether anything was asked for or is in flight."""
        return bool(self._inbox or self._ready or self.scheduler.running or self.scheduler.waiting)

    def open_root(self, tokens: Tokens[int], namespace: str = "") -> Sequence:
        """The sequence of a prompt. Equal prompts that are open at the same time are one sequence, computed once."""
        key = (namespace, tuple(tokens))
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Sequence(list(tokens), next(self._arrivals), namespace, root_key=key)
        root.handles += 1
        return root

    def open_child(self, parent: Sequence, tokens: Tokens[int]) -> Sequence:
        """A child with given tokens after its parent's. Nothing is computed before it is extended or scored."""
        lease = None if parent.lease is None else self.cache.fork(parent.lease)
        child = Sequence(
            [*parent.tokens, *tokens], next(self._arrivals), parent.namespace, lease, parent, gang=parent.gang
        )
        child.billed, child.reached, child.handles = parent.billed, parent.reached, 1
        child.tail_logits = None if tokens else parent.tail_logits
        self.scheduler.rest(child)
        return child

    def start(self, task: Extend | Reading) -> None:
        """Begin a task; it ends in ``task.done`` or ``task.failed``, or in `cancel`."""
        if self._broken is not None:
            task.failed(self._broken)
            return
        self._tasks[task] = None
        task.ledger.watch(self._interrupt)
        if isinstance(task, Extend) and task.progress is not None:
            task.progress.watch(self._interrupt)
        parent = task.parent
        task.gang = self._gangs.of(task)
        if task.ledger.exhausted:
            self._cut(task, "budget")
        elif isinstance(task, Extend) and len(parent.tokens) >= task.limit:
            self._cut(task, "length")
        elif parent.tail_logits is not None:
            self._ready.append(task)
        else:
            if not parent.tasks:
                parent.arrival, parent.gang = next(self._arrivals), task.gang
                self.scheduler.add(parent)
            elif task.gang.rank < parent.gang.rank:
                parent.gang = task.gang
            parent.tasks.append(task)

    def cancel(self, task: Task) -> None:
        """Drop a task and everything that it grew; frees its pages now."""
        if not task.over:
            self._end(task)
            for sequence in grown_by(task):
                self.close(sequence)

    def close(self, sequence: Sequence) -> None:
        """Give a sequence up: its own pages are free at once, full ones stay cached while there is room."""
        sequence.handles -= 1
        if sequence.handles > 0:
            return
        if sequence.root_key is not None:
            del self._roots[sequence.root_key]
        for task in [*sequence.tasks, *(task for task in self._ready if task.parent is sequence)]:
            self.cancel(task)
        sequence.tail_logits = None
        self.scheduler.drop(sequence)

    def fail(self, error: BaseException) -> None:
        """End every task with ``error`` and refuse new ones: the state of the backend is no longer known."""
        self._broken = error
        for task in list(self._tasks):
            self._fail_task(task, error)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every page is accounted for and reachable."""
        self.scheduler.check_integrity()

    # ---- the parts of a turn ---------------------------------------------------------------------------------------

    def step_inbox(self) -> None:
        """Run the commands that were submitted."""
        self._interrupt.clear()  # first, so that what is submitted from now on is not missed
        while self._inbox:
            self._inbox.popleft()()

    def _cut(self, task: Task, reason: str) -> None:
        """End a task with what it has so far."""
        self._leave_parent(task)
        if isinstance(task, Extend):
            for child in list(task.children):
                if child.generation is not None and child.generation.finish is None:
                    self.growth.finish(child, reason)
            while not task.over and len(task.children) < len(task.keys):
                self.growth.finish(self._new_child(task), reason)
        elif isinstance(task, Reading):
            self._readings.end(task)

    def _fail_damaged(
        self, slices: list[Slice[Sequence]], logits: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> None:
        """Fail the tasks of sequences whose logits are not finite, and let go of what was computed for them."""
        for sequence, error in damaged(slices, logits, rows):
            if sequence.lease is None:  # closed with a sibling that was damaged too
                continue
            for task in tasks_of(sequence):
                self._fail_task(task, error)
            self.scheduler.drop(sequence)

    def _settle_slices(self, slices: Iterable[tuple[Slice[Sequence], int]], logits: NDArray[np.float32]) -> list[Draw]:
        """Hand each complete sequence its logits, from the given row on; returns the draws to be made."""
        draws = []
        for piece, row in slices:
            sequence = piece.sequence
            if sequence.reading is not None:
                self._readings.settle(sequence.reading, piece, logits[row : row + piece.count])
            elif pending(sequence) == 0 and sequence.generation is not None and sequence.generation.finish is None:
                draws.append((sequence, logits[row]))
            elif pending(sequence) == 0:
                sequence.tail_logits = logits[row].copy()
                self._ready += [task for task in sequence.tasks if isinstance(task, Extend | Reading)]
                sequence.tasks = []
                self.scheduler.rest(sequence)
        return draws

    def _start_ready(self) -> list[Draw]:
        """Start the tasks whose parent's logits are known; returns the first draws of their children.

        No more children are born in one step than a step may compute; the others follow in the next. Those of small
        families go first, so that a large one holds up nobody.
        """
        ready, self._ready = sorted(self._ready, key=num_unborn), []
        draws, room = [], self.scheduler.limits.max_sequences
        for task in ready:
            if task.over:
                continue
            if task.prompt.unpaid and not payable(task):
                self._cut(task, "budget")
                continue
            if room == 0:
                self._ready.append(task)
                continue
            logits = task.parent.tail_logits
            assert logits is not None  # kept for as long as the parent is open
            task.ledger.charge(cached=task.prompt.unpaid)  # what others computed
            self.stats.cached += task.prompt.unpaid
            task.prompt.unpaid = 0
            if isinstance(task, Extend):
                born = min(room, len(task.keys) - len(task.children))
                draws += [(self._new_child(task), logits) for _ in range(born)]
                room -= born
                if len(task.children) < len(task.keys):
                    self._ready.append(task)
            else:
                self._readings.start(task, logits)
        return draws

    # ---- small steps -----------------------------------------------------------------------------------------------

    def _new_child(self, extend: Extend) -> Sequence:
        """The next child of ``extend``, with its parent's tokens and a hold on its pages."""
        return self.growth.begin(extend, self.open_child(extend.parent, ()))

    def _grown(self, extend: Extend) -> None:
        self._end(extend)
        extend.done(extend.children)

    def _fail_task(self, task: Task, error: BaseException) -> None:
        """End a task with ``error`` and drop what it grew."""
        if not task.over:
            self._end(task)
            task.failed(error)
            for sequence in grown_by(task):
                self.close(sequence)

    def _leave_parent(self, task: Task) -> None:
        parent = task.parent
        if task in parent.tasks:
            parent.tasks.remove(task)
            if not parent.tasks:
                self.scheduler.rest(parent)

    def _end(self, task: Task) -> None:
        task.over = True
        self._tasks.pop(task, None)
        self._leave_parent(task)
