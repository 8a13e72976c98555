"""Records of what was measured, one line each, appended as they come: what is on the disk is never lost again."""

from __future__ import annotations

import fcntl
import gzip
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from outthink.core.errors import UserError

JobKey = tuple[str, str, str | None, str, str, float | None, int]


@dataclass(frozen=True)
class Record:
    """One problem answered in one cell.

    ``number`` counts the problems of a ``suite`` at a ``difficulty`` (None: its whole range); ``problem`` is the hash
    of its canonical form, ``hard`` its own difficulty. ``answer`` is None where there was none, and ``prompt_fits``
    False where the model could not even read the problem. ``bill`` is `Bill.to_json`, and ``over``
    how far it exceeds the budget, in its unit. ``pages``: the most KV pages of the model that the open branches held at
    once.
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


class Journal:
    """A file of records under a header that says what they are records of; a context manager that closes it.

    Opening it again goes on where it ended: what a kill left half written is dropped. A complete one is packed (gzip),
    and unpacked when it is opened. Raises UserError where the header differs, the file is no journal, or another
    process writes to it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.packed = path, path.with_name(path.name + ".gz")
        self.records: dict[JobKey, Record] = {}
        unpacked = self.packed.exists() and not path.exists()
        if unpacked:
            with gzip.open(self.packed, "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        self._file = path.open("a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            if unpacked:
                path.unlink()
            raise

    def add(self, record: Record) -> None:
        """Append a record; it is with the operating system when this returns."""
        self.records[record.key] = record
        self._write(asdict(record))

    def pack(self) -> None:
        """Compress the file, which is complete."""
        with self.path.open("rb") as source, gzip.GzipFile(self.packed, "wb", mtime=0) as target:
            shutil.copyfileobj(source, target)
        self.path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {self.path}; wait for it, or choose another --out.") from error

    def _read(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        if not whole:
            self._write(header)
            return
        try:
            found, *rows = [json.loads(line) for line in whole.splitlines()]
            records = [Record(**row) for row in rows]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path} holds no records of this bench ({error}); choose another --out.") from error
        if found != header:
            raise UserError(
                f"{self.path} was begun by another command: {_differences(found, header)}. Repeat that command to go "
                "on with it, choose another --out, or delete the file."
            )
        self.records = {record.key: record for record in records}

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()


def _differences(before: Any, now: Any, where: str = "") -> str:
    """What differs between two JSON values, as "NAME was X and is Y", a name for each level."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        told = [_differences(before.get(n), now.get(n), f"{where}.{n}" if where else n) for n in names]
        return "; ".join(told)
    return f"{where or 'it'} was {_told(before)} and is {_told(now)}"


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value is None else str(value)
