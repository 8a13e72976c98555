"""One record for each answer, on the disk as it comes."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from outthink.bench.journal import Journal
from outthink.core.errors import UserError

JobKey = tuple[str, str, str | None, str, str, float | None, int]


@dataclass(frozen=True)
class Record:
    """One problem answered in one cell.

    ``number`` counts the problems of a ``suite`` at a ``difficulty`` (None: its whole range); ``problem`` is the hash
    of its canonical form, ``hard`` its own difficulty. ``answer`` is None where there was none, and ``prompt_fits``
    False where the model could not even read the problem. ``bill`` is `Bill.to_json`, and ``over`` how far it exceeds
    the budget, in its unit. ``pages``: the most KV pages that the open branches held at once, summed over the models at
    work, those of verifiers included.
    """

    model: str
    strategy: str
    verifier: str | None
    budget: str
    suite: str
    difficulty: float | None
    number: int
    problem: str
    family: str
    hard: float
    answer: str | None
    right: bool
    confidence: float
    stopped: str
    attempts: int
    bill: Mapping[str, Any]
    pages: int
    over: float
    prompt_fits: bool = True

    def spent(self, what: str) -> float:
        """One entry of its bill: ``tokens``, ``flops``, ``seconds``, ``verifier_calls``, ...; 0 where there is none."""
        return self.bill.get(what, 0)

    @property
    def cell(self) -> tuple[str, str, str | None, str]:
        """The key of its `Cell`."""
        return self.model, self.strategy, self.verifier, self.budget

    @property
    def place(self) -> tuple[str, float | None, int]:
        """Which problem it answers."""
        return self.suite, self.difficulty, self.number

    @property
    def key(self) -> JobKey:
        """What no other record of a journal shares."""
        return (*self.cell, *self.place)


class Answers:
    """The records beside a result, under a header that says what they are records of; a context manager.

    Opening it again goes on where it ended: what a kill left half written is dropped. Raises UserError where the header
    differs, where what is there are no such records, and where another process writes to them.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self._journal = Journal(out, json.loads(json.dumps(header)))
        self.path = self._journal.path
        self._file = self.path.open("ab")
        try:
            self._lock()
            found = [self._record(row) for row in self._journal.read()]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.records: dict[JobKey, Record] = {record.key: record for record in found}

    def add(self, record: Record) -> None:
        """Append a record; it is with the operating system when this returns."""
        self.records[record.key] = record
        self._journal.append(asdict(record))

    def pack(self) -> None:
        """Compress the records, which are complete."""
        self._journal.pack(asdict(record) for record in self.records.values())

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.path.is_file() and not self.path.stat().st_size:
            self.path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {self.path}; wait for it, or choose another --out.") from error

    def _record(self, row: Mapping[str, Any]) -> Record:
        try:
            return Record(**row)
        except TypeError as error:
            raise UserError(f"{self.path} holds no records of this bench ({error}); choose another --out.") from error
