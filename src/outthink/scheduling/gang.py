"""Who competes for a step: gangs, which are pieces of work with all their sequences; how it is dealt out to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, TypeVar


@dataclass(eq=False, slots=True)
class Gang:
    """All sequences of one piece of work: a chat, or a problem with every branch of its tree.

    ``priority``: a whole number, lower goes first: each one less doubles the share of steps, and pages are taken from
    the highest number first. ``tenant``: whose it is; tenants have equal shares. ``number``: the order of arrival.
    The scheduler notes the rest: ``served``, the step in which it was last given anything; ``turn``, that in which its
    last turn ended, and ``used``, in how many it was served since; ``suspended``, the pages
    that it held when it was preempted as a whole, 0 where it was not; ``blocked``, when it last found no pages;
    ``passed_over``, its oldest sequence where that was given nothing in the last step.
    """

    priority: int = 0
    tenant: str = ""
    number: int = 0
    served: int = -1
    turn: int = 0
    used: int = 0
    suspended: int = 0
    blocked: int = -1
    passed_over: Any = None
    weight: float = field(init=False)

    def __post_init__(self) -> None:
        self.weight = 2.0**-self.priority  # powers of two: sums and quotients of shares are exact

    @property
    def rank(self) -> tuple[int, int]:
        """The order in which gangs keep their pages: the last gives them up first."""
        return self.priority, self.number


class Party(Protocol):
    """Who is dealt a share: its ``weight``, how many positions it wants, the steps in which it was last served and its
    last turn ended.
    """

    @property
    def weight(self) -> float: ...
    @property
    def demand(self) -> int: ...
    @property
    def served(self) -> int: ...
    @property
    def turn(self) -> int: ...


P = TypeVar("P", bound=Party)


def deal(
    parties: Sequence[P],
    room: int,
    slots: int,
    serve: Callable[[P, int, int], tuple[int, int]],
    most: int | None = None,
) -> tuple[int, int]:
    """Share out ``room`` positions and ``slots`` sequences by weighted max-min fairness; returns what was used.

    ``serve(party, room, slots)`` gives a party at most so much and returns what it used. Each gets its part by weight
    of what is left, at least one position and one slot; those that want least for their weight choose first, so that
    what they leave goes to the others. Of more parties than ``K = min(room, slots)``, the ``K`` that were served
    longest ago share: so each of ``n`` is served in at least one of every ``ceil(n / K)`` steps. Where ``most`` is
    given, no more than that of those that want more than their part share what is left: those whose turn was longest
    ago. So prompts come in few large pieces, and one after the other.
    """
    if len(parties) > (places := min(room, slots)):
        parties = sorted(parties, key=attrgetter("served"))[:places]
    weight, used_room, used_slots = sum(party.weight for party in parties), 0, 0
    others = len(parties)
    for at, party in enumerate(queue := sorted(parties, key=_wish)):
        if most is not None and others > most and _wish(party) * weight > room - used_room:  # as all that follow do
            rest = sorted(queue[at:], key=attrgetter("turn"))[:most]
            got = deal(rest, room - used_room, slots - used_slots, serve)
            return used_room + got[0], used_slots + got[1]
        others -= 1
        share = party.weight / weight
        weight -= party.weight
        got = serve(party, _part(room - used_room, share, others), _part(slots - used_slots, share, others))
        used_room, used_slots = used_room + got[0], used_slots + got[1]
    return used_room, used_slots


def _wish(party: Party) -> float:
    return party.demand / party.weight


def _part(left: int, share: float, others: int) -> int:
    """A share of what is ``left``, at least 1, such that 1 is left for each of the ``others``."""
    return min(max(1, int(left * share)), left - others)
