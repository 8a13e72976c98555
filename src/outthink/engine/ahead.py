"""Several steps of decoding in one call of the backend, where nothing can come between them.

What is drawn, billed and cached is what single steps would have drawn, billed and cached: a call is only as long as
every budget can pay in full, and whatever is asked of the engine meanwhile ends it after the step that is running.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.engine.billing import Costs, Stats
from outthink.engine.growth import Growth, generation_of, laws
from outthink.engine.sequence import Extend, Sequence
from outthink.kernels.step import Backend, DecodeBatch, Decoded, Decoder, Stops
from outthink.kv import Lease, PagedCache
from outthink.kv.cache import Copy
from outthink.scheduling import Scheduler, pending

MOST_STEPS = 128
CALL_SECONDS = 0.05
WATCHED_SECONDS = 0.02  # about as long as may pass before those who watch a text see more of it


class Interrupt:
    """A flag that the backend looks at between two steps. Safe to set from any thread."""

    def __init__(self) -> None:
        self.array: NDArray[np.int32] = np.zeros(1, dtype=np.int32)

    def set(self) -> None:
        """Have the call that is running end after its step."""
        self.array[0] = 1

    def clear(self) -> None:
        """Note that what it was set for will be seen to."""
        self.array[0] = 0


class Ahead:
    """Runs the sequences of a scheduler ahead while all they want is one token after another."""

    def __init__(
        self,
        backend: Backend,
        decoder: Decoder,
        scheduler: Scheduler[Sequence],
        growth: Growth,
        stats: Stats,
        interrupt: Interrupt,
        observers: Seq[Callable[[], None]] = (),
    ) -> None:
        self._backend, self._decoder, self._scheduler = backend, decoder, scheduler
        self._growth, self._stats, self._interrupt, self._observers = growth, stats, interrupt, observers
        self._reach = 8  # steps that pages are reserved for: about as many as a call has time for
        self._spelled = False

    def run(self, costs: Costs, *, one: bool) -> bool:
        """Decode as far as goes in one call, ``one`` step at most if so asked.

        False where a step must be scheduled; then nothing has been computed.
        """
        rows = list(self._scheduler.running)
        growing = self._growing(rows)
        watched = any(extend.on_token is not None or extend.on_draw is not None for extend in growing)
        steps = affordable_steps(growing, rows, costs, 0 if not growing else 1 if one else self._unwatched(growing))
        if not steps:
            return False
        limits = [min(steps, _most(sequence)) for sequence in rows]
        copies, roomy = _reserve(self._scheduler.cache, rows, limits)
        if copies:
            self._backend.copy_pages(*np.ascontiguousarray(np.array(copies, dtype=np.int32).T))
        if not roomy:
            return False
        most = WATCHED_SECONDS if watched else CALL_SECONDS
        seconds = min(most, *(extend.ledger.seconds_left for extend in growing))
        batch, begun = self._pack(rows, limits, growing), time.monotonic()
        decoded = self._decoder.decode(batch, steps, seconds, self._interrupt.array)
        if decoded.steps == self._reach:
            self._reach = min(MOST_STEPS, 2 * self._reach)
        elif time.monotonic() - begun >= most:
            self._reach = min(self._reach, decoded.steps + 1)
        self._settle(rows, decoded, costs)
        return decoded.steps > 0

    def _unwatched(self, growing: Iterable[Extend]) -> int:
        """How many steps there is time for before somebody waits for what they draw."""
        rooms = (extend.progress.room for extend in growing if extend.progress is not None)
        return int(min(self._reach, min(rooms, default=math.inf)))

    def _growing(self, rows: Seq[Sequence]) -> Counter[Extend]:
        """The extensions that ``rows`` grow for, with how many; none where any wants something else."""
        limits, growing = self._scheduler.limits, Counter[Extend]()
        if self._scheduler.waiting or len(rows) > min(limits.max_sequences, limits.max_batch_tokens):
            return growing
        for sequence in rows:
            generation = sequence.generation
            if generation is None or generation.finish is not None or pending(sequence) != 1:
                return Counter()
            growing[generation.extend] += 1
        return growing if all(extend.plain for extend in growing) else Counter()

    def _pack(self, rows: Seq[Sequence], limits: Seq[int], growing: Counter[Extend]) -> DecodeBatch:
        generations = [generation_of(sequence) for sequence in rows]
        stops = [self._stops(extend) for extend in growing]
        groups = dict(zip(growing, range(len(stops)), strict=True))
        ends = {extend: max((len(text) - 1 for text in stops[i].strings), default=0) for extend, i in groups.items()}
        pages = [_lease(sequence).pages for sequence in rows]
        width = max(map(len, pages))
        return DecodeBatch(
            tokens=_ints([sequence.tokens[-1] for sequence in rows]),
            positions=_ints([len(sequence.tokens) - 1 for sequence in rows]),
            page_tables=_ints([page + [0] * (width - len(page)) for page in pages]),
            limits=_ints(limits),
            groups=_ints([groups[generation.extend] for generation in generations]),
            laws=laws(generations),
            stops=stops,
            tails=[bytes(each.text[-ends[each.extend] :]) if ends[each.extend] else b"" for each in generations],
        )

    def _stops(self, extend: Extend) -> Stops:
        until = extend.until
        if until.stop and not self._spelled:
            self._decoder.spell([self._growth.pieces[token] for token in range(self._decoder.num_outputs)])
            self._spelled = True
        tokens = until.stop_tokens if until.ignore_eos else (*until.stop_tokens, *self._growth.eos)
        return Stops(tokens, tuple(stop.encode() for stop in until.stop))

    def _settle(self, rows: Seq[Sequence], decoded: Decoded, costs: Costs) -> None:
        """Bill what was computed, keep its pages, and take in what was drawn, in the order in which rows ended."""
        counts, width = decoded.counts.tolist(), decoded.steps
        arrays = (decoded.tokens, decoded.log_probs, decoded.sample_log_probs)
        tokens, *log_probs = (array[:, :width].tolist() for array in arrays)
        cache, priced = self._scheduler.cache, {}
        owed: dict[Ledger, list[int]] = {}  # tokens, FLOPs
        for sequence, count, drawn in zip(rows, counts, tokens, strict=True):
            lease = _lease(sequence)
            if count:
                span = lease.length, count
                if span not in priced:
                    priced[span] = costs.positions(*span) + count * costs.head
                line = owed.setdefault(generation_of(sequence).extend.ledger, [0, 0])
                line[0] += count
                line[1] += priced[span]
                sequence.tokens += drawn[:count]
                sequence.mark(lease.length + count)
                cache.commit(lease, sequence.tokens, count)
            cache.trim(lease)
        for look in self._observers:  # before anything that has ended is let go
            look()
        for ledger, (decodes, flops) in owed.items():
            ledger.charge(decoded=decodes, flops=flops)
        total = sum(counts)
        self._stats.steps += decoded.steps
        self._stats.positions += total
        self._stats.drawn += total
        for r in sorted(range(len(rows)), key=counts.__getitem__):
            if count := counts[r]:
                self._growth.take(rows[r], tokens[r][:count], *(values[r][:count] for values in log_probs))


def affordable_steps(growing: Counter[Extend], rows: Seq[Sequence], costs: Costs, steps: int) -> int:
    """How many of ``steps`` steps every ledger can pay for in full, all of its rows drawing to the end."""
    if not any(extend.ledger.limited for extend in growing) or not steps:
        return steps
    longest = max(len(sequence.tokens) for sequence in rows)
    dearest = costs.positions(longest + steps - 1, 1) + costs.head
    drawing = Counter[Ledger]()
    for extend, count in growing.items():
        for ledger in extend.ledger.line:
            drawing[ledger] += count
    for ledger, count in drawing.items():
        # A token is not drawn unless FLOPs are left after what it is drawn from.
        most = min(ledger.tokens_left / count, (ledger.flops_left - 1) / (count * dearest))
        steps = int(min(steps, most))
    return steps


def _reserve(cache: PagedCache, rows: Seq[Sequence], counts: Seq[int]) -> tuple[list[Copy], bool]:
    """Pages for as many further positions of each row; preempts nobody.

    Returns the copies to be made, and whether there was room for all; if not, what was reserved is given back.
    """
    copies: list[Copy] = []
    for r, (sequence, count) in enumerate(zip(rows, counts, strict=True)):
        more = cache.reserve(_lease(sequence), count)
        if more is None:
            for other in rows[:r]:
                cache.trim(_lease(other))
            return copies, False
        copies += more
    return copies, True


def _most(sequence: Sequence) -> int:
    """How many tokens a sequence may still draw."""
    generation, length = generation_of(sequence), len(sequence.tokens)
    until, limit = generation.extend.until, generation.extend.limit - length
    return limit if until.max_tokens is None else min(limit, until.max_tokens - (length - generation.start))


def _lease(sequence: Sequence) -> Lease:
    assert sequence.lease is not None
    return sequence.lease


def _ints(values: Seq[int] | Seq[Seq[int]]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)
