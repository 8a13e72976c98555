"""From records to figures: accuracy with intervals, differences on the same problems, the best at each budget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from outthink.bench.reason.journal import Record
from outthink.bench.reason.plan import Cell, Progress
from outthink.core.estimate import Estimate, paired_difference, proportion

BASELINE = "majority-vote"
ORACLES = ("exact", "step-oracle")  # verifiers that know the truth: what they reach is an upper limit
ERROR = 0.05
OVERALL = "overall"


@dataclass(frozen=True)
class Point:
    """One cell over the problems of one ``scope``: ``overall``, ``family:NAME``, ``suite:NAME`` or ``difficulty:D``.

    ``gain`` is its accuracy minus the baseline's at the same budget and on the same problems; None for the baseline,
    and where that was not run or the scope is a family. Costs are means a problem, and counted, not estimated;
    ``verifier_flops`` are the part of ``flops`` that went into judging.
    ``most_over`` is by how much the worst bill exceeded its budget, in the budget's unit.
    """

    scope: str
    model: str
    strategy: str
    verifier: str | None
    budget: str
    accuracy: Estimate
    gain: Estimate | None
    answered: float
    tokens: float
    flops: float
    seconds: float
    verifier_flops: float
    verifier_calls: float
    pages: float
    most_pages: int
    attempts: float
    most_over: float

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        gain = None if self.gain is None else self.gain.to_json()
        return {**asdict(self), "accuracy": self.accuracy.to_json(), "gain": gain}


@dataclass(frozen=True)
class Best:
    """The strategy with the highest accuracy at one budget, and those that this many problems cannot tell from the
    truly best one: with probability 0.95 the truly best is among ``among``, whichever was ahead.

    ``truth``: whether verifiers that know the truth take part; strategies with them are compared among themselves, all
    others among themselves.
    """

    scope: str
    model: str
    budget: str
    truth: bool
    leader: tuple[str, str | None]
    among: tuple[tuple[str, str | None], ...]
    num_compared: int
    num_problems: int


Table = dict[Cell, list[Record]]


def tabulate(cells: Sequence[Cell], records: Iterable[Record]) -> Table:
    """The records of every cell in one order of problems: those that all cells of its model have answered."""
    by_key = {record.key: record for record in records}
    places = {record.place: None for record in by_key.values()}
    table: Table = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        whole = [place for place in places if all((*cell.key, *place) in by_key for cell in own)]
        table |= {cell: [by_key[(*cell.key, *place)] for place in sorted(whole, key=_order)] for cell in own}
    return table


def points_of(table: Table, progress: Progress = lambda *_: None) -> list[Point]:
    """Every cell in every scope that has problems."""
    scopes = scopes_of(record for records in table.values() for record in records)
    jobs = [(scope, cell) for scope in scopes for cell in table]
    points: list[Point] = []
    for done, (scope, cell) in enumerate(jobs):
        records = [record for record in table[cell] if in_scope(record, scope)]
        if records:
            points.append(_point(scope, cell, records, _baseline(table, scope, cell)))
        progress(done + 1, len(jobs), "working out intervals")
    return points


def best_of(table: Table) -> list[Best]:
    """The best at each budget, for each model, in every scope but families."""
    scopes = scopes_of(record for records in table.values() for record in records)
    found: list[Best] = []
    for scope in (scope for scope in scopes if not scope.startswith("family:")):
        rows: dict[tuple[str, str, bool], dict[tuple[str, str | None], list[bool]]] = defaultdict(dict)
        for cell, records in table.items():
            right = [record.right for record in records if in_scope(record, scope)]
            if right:
                rows[cell.model, str(cell.budget), cell.verifier in ORACLES][cell.strategy, cell.verifier] = right
        found += [Best(scope, *where, *leaders(row)) for where, row in rows.items()]
    return found


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the (cost, accuracy) pairs that none beats at no more cost, by rising cost."""
    chosen: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not chosen or points[i][1] > points[chosen[-1]][1]:
            chosen.append(i)
    return chosen


def scopes_of(records: Iterable[Record]) -> list[str]:
    """All scopes of ``records``; suites and difficulties only where there are several."""
    suites, difficulties, families = set[str](), set[float | None](), set[str]()
    for record in records:
        suites.add(record.suite)
        difficulties.add(record.difficulty)
        families.add(record.family)
    told = [f"difficulty:{d}" for d in sorted(difficulties, key=lambda d: -1.0 if d is None else d)]
    by_suite = [f"suite:{name}" for name in sorted(suites)]
    return [
        OVERALL,
        *(by_suite if len(suites) > 1 else []),
        *(told if len(difficulties) > 1 else []),
        *(f"family:{name}" for name in sorted(families)),
    ]


def in_scope(record: Record, scope: str) -> bool:
    """Whether ``record`` counts in ``scope``."""
    kind, _, name = scope.partition(":")
    value = {"family": record.family, "suite": record.suite, "difficulty": str(record.difficulty)}.get(kind)
    return scope == OVERALL or value == name


def beats(wins: int, losses: int) -> float:
    """The p-value against "it wins no more often than it loses", from wins and losses on the same problems: the exact
    sign test (McNemar 1947).
    """
    n = wins + losses
    return math.fsum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n if n else 1.0


Answers = Mapping[tuple[str, str | None], Sequence[bool]]


def leaders(row: Answers) -> tuple[tuple[str, str | None], tuple[tuple[str, str | None], ...], int, int]:
    """The one with most right answers; all that no other beats at error / (number of others); how many there are; the
    number of problems.

    The truly best one drops out only if one of the others beats it by chance: at most ERROR in all (Bonferroni; the
    idea is Hsu's multiple comparisons with the best, Annals of Statistics 9, 1981).
    """
    leader = max(row, key=lambda name: sum(row[name]))
    error = ERROR / max(1, len(row) - 1)
    among = [name for name, right in row.items() if all(_p(other, right) > error for other in row.values())]
    return leader, tuple(sorted(among, key=lambda name: -sum(row[name]))), len(row), len(row[leader])


def _p(a: Sequence[bool], b: Sequence[bool]) -> float:
    wins = sum(x and not y for x, y in zip(a, b, strict=True))
    return beats(wins, sum(y and not x for x, y in zip(a, b, strict=True)))


def _baseline(table: Table, scope: str, cell: Cell) -> list[bool] | None:
    if cell.strategy == BASELINE or scope.startswith("family:"):
        return None
    records = table.get(Cell(cell.model, BASELINE, None, cell.budget))
    return None if records is None else [record.right for record in records if in_scope(record, scope)]


def _point(scope: str, cell: Cell, records: Sequence[Record], baseline: Sequence[bool] | None) -> Point:
    right = [record.right for record in records]
    return Point(
        scope,
        *cell.key,
        accuracy=proportion(right),
        gain=None if baseline is None else exact_difference(tuple(right), tuple(baseline)),
        answered=mean_of(record.answer is not None for record in records),
        tokens=mean_of(record.spent("tokens") for record in records),
        flops=mean_of(record.spent("flops") for record in records),
        seconds=mean_of(record.spent("seconds") for record in records),
        verifier_flops=mean_of(record.spent("verifier_flops") for record in records),
        verifier_calls=mean_of(record.spent("verifier_calls") for record in records),
        pages=mean_of(record.pages for record in records),
        most_pages=max(record.pages for record in records),
        attempts=mean_of(record.attempts for record in records),
        most_over=max(record.over for record in records),
    )


def exact_difference(a: tuple[bool, ...], b: tuple[bool, ...]) -> Estimate:
    wins = sum(x and not y for x, y in zip(a, b, strict=True))
    return _exact_difference(wins, sum(y and not x for x, y in zip(a, b, strict=True)), len(a))


@lru_cache(maxsize=4096)
def _exact_difference(wins: int, losses: int, n: int) -> Estimate:
    """`paired_difference`, which depends on these counts alone and takes a while."""
    a = [True] * wins + [False] * (n - wins)
    b = [False] * wins + [True] * losses + [False] * (n - wins - losses)
    return paired_difference(a, b)


def mean_of(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _order(place: tuple[str, float | None, int]) -> tuple[str, float, int]:
    suite, difficulty, number = place
    return suite, -1.0 if difficulty is None else difficulty, number
