"""What a step is made of: slices of sequences, what each gang wants of it, and how far it has been put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from outthink.core.errors import UserError
from outthink.kv.cache import Copy, Lease
from outthink.scheduling.gang import Gang


class Schedulable(Protocol):
    """What the scheduler knows of a sequence: its ``tokens``, its hold on pages (None where it has none), its age, and
    the gang that it belongs to.

    ``reusable``: how many leading positions may come from the cache; the logits of those after it are wanted.
    """

    tokens: list[int]
    lease: Lease | None
    namespace: str
    arrival: int
    gang: Gang

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


class Work(Generic[S]):
    """What one gang wants of a step: ``queue``, in this order, which has been asked as far as ``at``."""

    __slots__ = ("at", "demand", "gang", "oldest", "prompts", "queue", "weight")

    def __init__(self, gang: Gang, oldest: S) -> None:
        self.gang, self.oldest, self.weight = gang, oldest, gang.weight
        self.queue: list[S] = []
        self.prompts: list[S] = []
        self.demand = self.at = 0

    @property
    def served(self) -> int:
        """When its gang was last given anything."""
        return self.gang.served

    @property
    def turn(self) -> int:
        """When its gang's last turn ended."""
        return self.gang.turn


@dataclass(slots=True)
class Tenant(Generic[S]):
    """The gangs of one tenant that want something of a step."""

    works: list[Work[S]]
    weight: float = 1.0

    @property
    def demand(self) -> int:
        """Positions that they want together."""
        return sum(work.demand for work in self.works)

    @property
    def served(self) -> int:
        """When any of them was last given anything."""
        return max(work.gang.served for work in self.works)

    @property
    def turn(self) -> int:
        """Tenants take no turns."""
        return 0


@dataclass(slots=True)
class Step(Generic[S]):
    """A step while it is put together.

    ``allow(sequence, start, count)``: how many of these positions may be computed. ``first``: the one sequence that may
    take whatever it needs. ``filling``: the pages filled in this step. ``sent_back``: what lost its pages to it.
    """

    allow: Callable[[S, int, int], int]
    first: S
    slices: dict[S, Slice[S]] = field(default_factory=dict)
    filling: set[tuple[int, object]] = field(default_factory=set)
    sent_back: set[S] = field(default_factory=set)


def pending(sequence: Schedulable) -> int:
    """Positions of ``sequence`` that have no KV yet."""
    return len(sequence.tokens) - (sequence.lease.length if sequence.lease is not None else 0)


def by_gang(sequences: Iterable[S]) -> dict[Gang, list[S]]:
    """Sequences by gang, in the order in which they come."""
    found: dict[Gang, list[S]] = {}
    for sequence in sequences:
        found.setdefault(sequence.gang, []).append(sequence)
    return found


def works_of(running: Iterable[S], waiting: Iterable[S], turn: int) -> tuple[list[Work[S]], S | None]:
    """What each gang wants, and the oldest sequence of the gang of first rank, which goes before what is blocked.

    Decodes first, then the prompts of those that run, then of those that wait, oldest first each, as they are given; a
    sequence that was passed over in the last step before all. Gangs that found no pages at ``turn`` have none to ask
    for again.
    """
    works: dict[Gang, Work[S]] = {}
    for sequence in running:
        gang = sequence.gang
        if (work := works.get(gang)) is None:
            work = works[gang] = Work(gang, sequence)
        count = pending(sequence)
        work.demand += count
        (work.queue if count <= 1 else work.prompts).append(sequence)
    for sequence in waiting:
        gang = sequence.gang
        if (work := works.get(gang)) is None:
            work = works[gang] = Work(gang, sequence)
        elif sequence.arrival < work.oldest.arrival:
            work.oldest = sequence
        if gang.blocked != turn:
            work.demand += len(sequence.tokens)
            work.prompts.append(sequence)
    if not works:
        return [], None
    first = works[min(works, key=lambda gang: gang.rank)].oldest
    for gang, work in works.items():
        work.queue += work.prompts
        urgent = work.oldest
        if urgent is gang.passed_over or (urgent is first and urgent.lease is None):
            if urgent in work.queue:
                work.queue.remove(urgent)
            work.queue.insert(0, urgent)
    return [work for work in works.values() if work.queue], first
