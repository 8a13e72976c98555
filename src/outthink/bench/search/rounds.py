"""The measurement: everybody does every work in every round, one after the other; each record is kept as it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outthink.bench.engine.driver import RunnerError
from outthink.bench.journal import Journal
from outthink.bench.search.plan import OURS, Ground, Json, Part, SearchConfig, Way, turned
from outthink.core.errors import UnknownNameError

Progress = Callable[[int, int, str], None]


@dataclass
class Measured:
    """Records so far; ``missing``: why somebody has none; ``told``: what the others say of themselves."""

    records: list[Json]
    missing: dict[str, str] = field(default_factory=dict)
    told: dict[str, Json] = field(default_factory=dict)
    interrupted: bool = False


def known_parts() -> tuple[Part, ...]:
    """All comparisons."""
    from outthink.bench.search.nodes import NODES
    from outthink.bench.search.share import SHARE
    from outthink.bench.search.tokens import SMC
    from outthink.bench.search.trees import TREES

    return TREES, SMC, NODES, SHARE


def find_parts(names: Sequence[str]) -> tuple[Part, ...]:
    """Those of these names, in their usual order; all without names. Raises UnknownNameError."""
    parts = {part.name: part for part in known_parts()}
    for name in names:
        if name not in parts:
            raise UnknownNameError("part", name, parts)
    return tuple(part for part in parts.values() if not names or part.name in names)


def measure(
    parts: Sequence[Part],
    config: SearchConfig,
    directory: Path,
    journal: Journal,
    progress: Progress = lambda *_: None,
) -> Measured:
    """Do what ``journal`` has no record of yet. Ctrl-C ends it early; what was finished is kept.

    Raises what ours raises; why another cannot do something is in the result.
    """
    measured = Measured(journal.read())
    try:
        for part in parts:
            _measure_part(part, config, directory, journal, measured, progress)
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def _measure_part(
    part: Part, config: SearchConfig, directory: Path, journal: Journal, measured: Measured, progress: Progress
) -> None:
    done = {(r["part"], r["work"], r["way"], r["round"]) for r in measured.records}
    with ExitStack() as stack:
        say: Any = lambda line: progress(0, 1, f"{part.name}: {line}")  # noqa: E731
        ground = Ground(config, directory, stack, measured.missing, measured.told, say)
        ways = part.open(ground)
        jobs = [(number, work, way) for number in range(config.rounds + 1) for work, way in _round(ways, number)]
        wanted = [job for job in jobs if job[0] and _key(part, *job) not in done]
        # The first round warms up: compilers, caches, pages of files.
        warmed = [job for job in jobs if not job[0] and any(job[1:] == other[1:] for other in wanted)]
        for count, (number, work, way) in enumerate([*warmed, *wanted]):
            progress(count, len(warmed) + len(wanted), f"{part.name}: {work}, {way.name}")
            name = f"{part.name}, {work}, {way.name}"
            if name in measured.missing:
                continue
            try:
                found = way.run(work, number)
            except RunnerError as error:
                if way.name.startswith(OURS):
                    raise
                measured.missing[name] = str(error)
                continue
            if number:
                record = {"part": part.name, "work": work, "way": way.name, "round": number, **found}
                journal.append(record)
                measured.records.append(record)


def _round(ways: Sequence[Way], number: int) -> list[tuple[str, Way]]:
    works = dict.fromkeys(work for way in ways for work in way.works)
    able = {work: [way for way in ways if work in way.works and (number == 1 or not way.once)] for work in works}
    return [(work, way) for work in works for way in turned(able[work], number)]


def _key(part: Part, number: int, work: str, way: Way) -> tuple[str, str, str, int]:
    return part.name, work, way.name, number
