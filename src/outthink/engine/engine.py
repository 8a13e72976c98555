"""The engine: one tree of sequences over one paged cache, computed a step at a time.

`Engine.step` is the whole story. Everything in this module runs on the stepping thread; others talk to it through
`submit`. See `engine/thread.py` for the thread and `lm/local.py` for the handles that strategies hold.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Tokens
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.core.errors import EngineError, SamplingError
from outthink.engine.billing import Costs, Purse, Stats, bill, split_affordable
from outthink.engine.pack import pack, page_copies
from outthink.engine.sampler import Row, sample
from outthink.engine.sequence import Extend, Generation, Judge, Reading, Sequence, Task
from outthink.kernels.step import Backend
from outthink.kv import PagedCache
from outthink.scheduling import Gang, Limits, Scheduler, Slice, pending


class Vocabulary(Protocol):
    """What the engine asks of a tokenizer."""

    @property
    def eos_ids(self) -> Iterable[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def is_special(self, token_id: int) -> bool: ...


class Engine:
    """Schedules, computes, samples and settles. Not thread-safe but for `submit` and `has_inbox`."""

    def __init__(
        self, backend: Backend, vocabulary: Vocabulary, costs: Costs, max_positions: int, limits: Limits | None = None
    ) -> None:
        self.backend, self.vocabulary, self.costs = backend, vocabulary, costs
        self.max_positions = min(max_positions, (backend.num_pages - 1) * backend.page_size)
        self.cache = PagedCache(backend.num_pages, backend.page_size)
        self.scheduler: Scheduler[Sequence] = Scheduler(self.cache, limits or Limits())
        self.stats = Stats()
        self._inbox: deque[Callable[[], None]] = deque()
        self._ready: list[Extend | Reading] = []
        self._tasks: dict[Task, None] = {}
        self._roots: dict[tuple[str, tuple[int, ...]], Sequence] = {}
        self._gangs: WeakKeyDictionary[Ledger, Gang] = WeakKeyDictionary()
        self._arrivals = itertools.count()
        self._eos = frozenset(vocabulary.eos_ids)
        self._broken: BaseException | None = None

    # ---- one turn -------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take what was asked, schedule, run, sample, settle. Returns whether there may be more to do."""
        self.step_inbox()
        self._cut_spent()
        slices = self.scheduler.schedule(Purse().allow)
        self.stats.steps += bool(slices)
        if slices:
            batch, first_rows = pack(slices)
            if (copies := page_copies(slices)) is not None:
                self.backend.copy_pages(*copies)
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
            self._settle_draws(draws)
        return self.busy

    # ---- what others ask (through `submit`) ------------------------------------------------------------------------

    def submit(self, command: Callable[[], None]) -> None:
        """Have ``command`` run on the stepping thread, between steps. Safe to call from any thread."""
        self._inbox.append(command)

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
        parent = task.parent
        task.gang = self._gang_of(task)
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
            for sequence in _grown(task):
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
        while self._inbox:
            self._inbox.popleft()()

    def _cut_spent(self) -> None:
        """Cut the tasks whose ledger is exhausted or cannot pay for what must be computed before their first token."""
        spent = {ledger: ledger.exhausted for ledger in {task.ledger for task in self._tasks}}
        purse = Purse()
        for task in list(self._tasks):
            if spent[task.ledger] or (
                task in task.parent.tasks and purse.take(task.ledger, price := self._price(task)) < price
            ):
                self._cut(task, "budget")

    def _price(self, task: Task) -> int:
        """Tokens that a task must be able to pay before its first draw: one, or what a reading needs at least, and its
        parent's unbilled positions if it is the one to pay for them."""
        parent, own = task.parent, task.price if isinstance(task, Reading) else 1
        if parent.tasks[0] is not task:
            return own
        known = parent.lease.length if parent.lease else self.cache.peek(parent.tokens, parent.namespace)
        return len(parent.tokens) - max(parent.progress[0], known) + own

    def _cut(self, task: Task, reason: str) -> None:
        """End a task with what it has so far."""
        self._leave_parent(task)
        if isinstance(task, Extend):
            for child in list(task.children):
                if child.generation is not None and child.generation.finish is None:
                    self._finish(child, reason)
            while not task.over and len(task.children) < len(task.keys):
                self._finish(self._new_child(task), reason)
        elif isinstance(task, Reading):
            self._end_reading(task)

    def _fail_damaged(
        self, slices: list[Slice[Sequence]], logits: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> None:
        """Fail the tasks of sequences whose logits are not finite, and let go of what was computed for them."""
        damaged = set(rows[~np.isfinite(logits).all(axis=1)].tolist())
        first = 0
        for piece in slices if damaged else ():
            found = damaged.intersection(range(first, first + piece.count))
            sequence, position = piece.sequence, piece.start + min(found, default=first) - first
            first += piece.count
            if not found or sequence.lease is None:  # closed with a sibling that was damaged too
                continue
            error = EngineError(
                f"The model computed logits that are not finite at position {position}, after token "
                f"{sequence.tokens[position]}: its weights are damaged, or their number format is too narrow. Only "
                "this request was ended."
            )
            generation, reading = sequence.generation, sequence.reading
            for task in list(sequence.tasks):
                self._fail_task(task, error)
            if reading is not None:
                self._fail_task(reading, error)
            elif generation is not None and generation.finish is None:
                self._fail_task(generation.extend, error)
            self.scheduler.drop(sequence)

    def _settle_slices(
        self, slices: Iterable[tuple[Slice[Sequence], int]], logits: NDArray[np.float32]
    ) -> list[tuple[Sequence, NDArray[np.float32]]]:
        """Hand each complete sequence its logits, from the given row on; returns the draws to be made."""
        draws = []
        for piece, row in slices:
            sequence = piece.sequence
            if sequence.reading is not None:
                self._settle_reading(sequence.reading, piece, logits[row : row + piece.count])
            elif pending(sequence) == 0 and sequence.generation is not None and sequence.generation.finish is None:
                draws.append((sequence, logits[row]))
            elif pending(sequence) == 0:
                sequence.tail_logits = logits[row].copy()
                self._ready += [task for task in sequence.tasks if isinstance(task, Extend | Reading)]
                sequence.tasks = []
                self.scheduler.rest(sequence)
        return draws

    def _start_ready(self) -> list[tuple[Sequence, NDArray[np.float32]]]:
        """Start the tasks whose parent's logits are known; returns the first draws of their children.

        No more children are born in one step than a step may compute; the others follow in the next. Those of small
        families go first, so that a large one holds up nobody.
        """
        ready, self._ready = sorted(self._ready, key=_num_unborn), []
        draws, room = [], self.scheduler.limits.max_sequences
        for task in ready:
            if task.over:
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
                self._start_reading(task, logits)
        return draws

    def _settle_draws(self, draws: list[tuple[Sequence, NDArray[np.float32]]]) -> None:
        """Draw a token for each sequence that may still pay for one; finish those that stop or may not."""
        affordable, others = split_affordable(self._constrained(draws))
        for sequence, logits in others:
            if sequence.tail_logits is not logits:  # nothing follows them, so they stay the last
                sequence.tail_logits = logits.copy()
            self._finish(sequence, "budget")
        if not affordable:
            return
        drawn = sample([logits for _, logits in affordable], [_row(sequence) for sequence, _ in affordable])
        self.stats.drawn += len(affordable)
        tokens, log_probs = drawn.tokens.tolist(), drawn.log_probs.tolist()
        sample_log_probs = drawn.sample_log_probs.tolist()
        for i, (sequence, _) in enumerate(affordable):
            generation, token = _generation(sequence), tokens[i]
            sequence.tokens.append(token)
            sequence.tail_logits = None
            sequence.billed = len(sequence.tokens)
            generation.log_probs.append(log_probs[i])
            generation.sample_log_probs.append(sample_log_probs[i])
            if generation.extend.sampling.top_logprobs:
                generation.top_log_probs.append(drawn.top[i])
            if (on_draw := generation.extend.on_draw) is not None:
                on_draw(generation.index, token, log_probs[i], drawn.top[i])
            piece = b"" if self.vocabulary.is_special(token) else self.vocabulary.token_bytes(token)
            finish = generation.accept(token, piece, self._eos, len(sequence.tokens))
            self._show(generation, piece)
            if finish is not None:
                self._finish(sequence, finish)
            elif len(sequence.tokens) == generation.start + 1:
                self.scheduler.add(sequence)

    def _constrained(
        self, draws: list[tuple[Sequence, NDArray[np.float32]]]
    ) -> list[tuple[Sequence, NDArray[np.float32]]]:
        """Find out what each sequence that is kept within a language may draw; fail the tasks of those that are stuck.
        Returns the draws that are left.
        """
        if all(_generation(sequence).state is None for sequence, _ in draws):
            return draws
        for sequence, _ in draws:
            generation = _generation(sequence)
            if not generation.extend.over:
                try:
                    generation.constrain(sequence.tokens)
                except SamplingError as error:
                    self._fail_task(generation.extend, error)
        return [draw for draw in draws if not _generation(draw[0]).extend.over]

    # ---- small steps -----------------------------------------------------------------------------------------------

    def _new_child(self, extend: Extend) -> Sequence:
        """The next child of ``extend``, with its parent's tokens and a hold on its pages."""
        child = self.open_child(extend.parent, ())
        child.gang, child.generation = extend.gang, Generation(extend, len(extend.children), len(child.tokens))
        child.generation.state = None if extend.state is None else extend.state.copy()
        extend.children.append(child)
        extend.growing += 1
        return child

    def _finish(self, child: Sequence, finish: str) -> None:
        generation = _generation(child)
        extend = generation.extend
        generation.finish = finish
        self._show(generation, b"")
        if extend.on_end is not None:
            extend.on_end(child)
        self.scheduler.rest(child)
        extend.growing -= 1
        if extend.growing == 0 and len(extend.children) == len(extend.keys):
            self._end(extend)
            extend.done(extend.children)

    def _show(self, generation: Generation, piece: bytes) -> None:
        """Stream what a token adds to the text, as far as it is complete as UTF-8; all of it where the text ends."""
        text = generation.decoder.decode(piece, generation.finish is not None)
        if text and (on_token := generation.extend.on_token) is not None:
            on_token(generation.index, text)

    def _start_reading(self, task: Reading, logits: NDArray[np.float32]) -> None:
        if task.ledger.tokens_left < task.price:
            self._cut(task, "budget")
            return
        following = task.begin(logits)
        if task.complete:
            self._end_reading(task)
            return
        task.sequence = self.open_child(task.parent, following)
        task.sequence.gang, task.sequence.reading = task.gang, task
        self.scheduler.add(task.sequence)

    def _settle_reading(self, task: Reading, piece: Slice[Sequence], logits: NDArray[np.float32]) -> None:
        task.take(logits[max(0, task.next_row - piece.start) :])  # but for rows computed before a preemption
        if task.complete:
            piece.sequence.tail_logits = logits[-1].copy()
            self._end_reading(task)

    def _end_reading(self, task: Reading) -> None:
        """Hand over what was read; the sequence of a complete judgement with it, any other is closed."""
        self._end(task)
        sequence = task.sequence
        if sequence is not None:
            sequence.reading = None
            if isinstance(task, Judge) and task.complete:
                self.scheduler.rest(sequence)
            else:
                self.close(sequence)
                sequence = None
        task.done((task.read, sequence) if isinstance(task, Judge) else task.read)

    def _fail_task(self, task: Task, error: BaseException) -> None:
        """End a task with ``error`` and drop what it grew."""
        if not task.over:
            self._end(task)
            task.failed(error)
            for sequence in _grown(task):
                self.close(sequence)

    def _gang_of(self, task: Task) -> Gang:
        """As what a task competes: all that is paid from one whole ledger is one gang."""
        whole = task.ledger.line[-1]
        gang = self._gangs.get(whole)
        if gang is None:
            gang = self._gangs[whole] = Gang(whole.priority, task.parent.namespace, next(self._arrivals))
        return gang

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


def _num_unborn(task: Extend | Reading) -> int:
    return len(task.keys) - len(task.children) if isinstance(task, Extend) else 0


def _generation(sequence: Sequence) -> Generation:
    assert sequence.generation is not None
    return sequence.generation


def _grown(task: Task) -> list[Sequence]:
    if isinstance(task, Extend):
        return list(task.children)
    return [task.sequence] if isinstance(task, Reading) and task.sequence is not None else []


def _row(sequence: Sequence) -> Row:
    generation = _generation(sequence)
    sampling, prompt_length = generation.extend.sampling, generation.extend.prompt.length
    key, tokens = generation.extend.keys[generation.index], sequence.tokens
    if not sampling.needs_history:
        return Row(sampling, key, len(tokens), allowed=generation.allowed)
    return Row(sampling, key, len(tokens), tokens[:prompt_length], tokens[prompt_length:], generation.allowed)
