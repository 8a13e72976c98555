"""Files and batches in the database."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, func, select

from outthink.serve.database import BATCHES, FILES, ROWS, Database
from outthink.serve.rows import Result

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
_FILE_COLUMNS = [column for column in FILES.c if column.name != "content"]


@dataclass(frozen=True)
class StoredFile:
    """A file without its content. ``created``: seconds, epoch."""

    id: str
    tenant: str
    created: float
    name: str
    purpose: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(frozen=True)
class Batch:
    """A batch as it is stored. ``details``: what else clients see of it, under the names that they know; ``deaths``: of
    processes that worked on it, since a row of it was last finished.
    """

    id: str
    tenant: str
    created: float
    status: str
    input_file: str
    endpoint: str
    details: Mapping[str, Any]
    owner: str | None
    model: str | None
    deaths: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": None,
            "input_file_id": self.input_file,
            "status": self.status,
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(self.created),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            **self.details,
        }


class BatchStore:
    """The files and batches in a database. Blocking; safe to use from several threads. Raises StoreError.

    What belongs to another tenant is not there.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    # ---- files -----------------------------------------------------------------------------------------------------

    def add_file(self, tenant: str, name: str, purpose: str, content: bytes) -> StoredFile:
        """Store a file."""
        file, row = _new_file(tenant, name, purpose, content)
        self.database.write(FILES.insert().values(**row))
        return file

    def file(self, file_id: str, tenant: str) -> StoredFile | None:
        """A file without its content."""
        found = self.database.all(select(*_FILE_COLUMNS).where(FILES.c.id == file_id, FILES.c.tenant == tenant))
        return StoredFile(**found[0]._mapping) if found else None

    def content(self, file_id: str, tenant: str) -> bytes | None:
        """What is in a file."""
        found = self.database.all(select(FILES.c.content).where(FILES.c.id == file_id, FILES.c.tenant == tenant))
        return bytes(found[0][0]) if found else None

    def piece(self, file_id: str, tenant: str, start: int, size: int) -> bytes:
        """``size`` bytes of a file from ``start`` on, or what there is of them."""
        cut = func.substr(FILES.c.content, start + 1, size)
        found = self.database.all(select(cut).where(FILES.c.id == file_id, FILES.c.tenant == tenant))
        return bytes(found[0][0]) if found else b""

    def files(self, tenant: str, limit: int, after: str | None = None) -> list[StoredFile]:
        """The newest files, newest first; those older than ``after``."""
        query = self._newest(select(*_FILE_COLUMNS), FILES, tenant, limit, after)
        return [StoredFile(**row._mapping) for row in self.database.all(query)]

    def stored_bytes(self, tenant: str) -> int:
        """How large the files of a tenant are together."""
        found = self.database.all(select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(FILES.c.tenant == tenant))
        return int(found[0][0])

    def delete_file(self, file_id: str, tenant: str) -> bool:
        """Delete a file, unless an unfinished batch reads it. Returns whether it is gone."""
        read = select(BATCHES.c.id).where(BATCHES.c.input_file == file_id, BATCHES.c.status.in_(UNFINISHED)).exists()
        own = (FILES.c.id == file_id) & (FILES.c.tenant == tenant)
        return self.database.write(FILES.delete().where(own & ~read)) == 1

    # ---- batches ---------------------------------------------------------------------------------------------------

    def add(self, tenant: str, model: str, input_file: str, endpoint: str, details: Mapping[str, Any]) -> Batch:
        """A new batch, for this process to do."""
        name, owner = f"batch_{secrets.token_hex(16)}", self.database.owner
        batch = Batch(name, tenant, time.time(), "validating", input_file, endpoint, details, owner, model)
        self.database.write(BATCHES.insert().values(**{**vars(batch), "details": json.dumps(dict(details))}))
        return batch

    def get(self, batch_id: str, tenant: str) -> Batch | None:
        """A batch."""
        found = self.database.all(select(BATCHES).where(BATCHES.c.id == batch_id, BATCHES.c.tenant == tenant))
        return _batch(found[0]) if found else None

    def recent(self, tenant: str, limit: int, after: str | None = None) -> list[Batch]:
        """The newest batches, newest first; those older than ``after``."""
        return [_batch(row) for row in self.database.all(self._newest(select(BATCHES), BATCHES, tenant, limit, after))]

    def adopted(self, model: str) -> list[Batch]:
        """Every unfinished batch that is ``model``'s and this process's, those of dead processes too, oldest first."""
        self.database.adopt(BATCHES, UNFINISHED, model)
        own = BATCHES.c.status.in_(UNFINISHED) & (BATCHES.c.owner == self.database.owner)
        return [_batch(row) for row in self.database.all(select(BATCHES).where(own).order_by(BATCHES.c.created))]

    def set(self, batch_id: str, status: str, details: Mapping[str, Any]) -> None:
        """Note where an unfinished batch stands."""
        self.database.write(_set(batch_id, status, details))

    def forgive(self, batch_id: str) -> None:
        """Forget who died over a batch: it gets on."""
        self.database.write(BATCHES.update().where(BATCHES.c.id == batch_id).values(deaths=0))

    def add_results(self, batch_id: str, results: Iterable[Result]) -> None:
        """Store what became of rows, all or none."""
        rows = [{"batch": batch_id, "number": r.number, "failed": int(r.failed), "line": r.line} for r in results]
        if rows:
            self.database.write(*(ROWS.insert().values(**row) for row in rows))

    def results(self, batch_id: str) -> list[Result]:
        """What became of the rows so far, in their order."""
        query = select(ROWS).where(ROWS.c.batch == batch_id).order_by(ROWS.c.number)
        return [Result(row.number, bool(row.failed), row.line) for row in self.database.all(query)]

    def outline(self, batch_id: str) -> list[tuple[int, bool, int]]:
        """Of each row that is finished its number, whether it failed, and how many characters there are of it."""
        query = select(ROWS.c.number, ROWS.c.failed, func.length(ROWS.c.line)).where(ROWS.c.batch == batch_id)
        return [(int(number), bool(failed), int(size)) for number, failed, size in self.database.all(query)]

    def counts(self, batch_id: str) -> tuple[int, int]:
        """How many rows are completed, and how many have failed."""
        query = select(func.count(), func.coalesce(func.sum(ROWS.c.failed), 0)).where(ROWS.c.batch == batch_id)
        rows, failed = self.database.all(query)[0]
        return int(rows) - int(failed), int(failed)

    def finish(self, batch: Batch, status: str, details: Mapping[str, Any], more: Sequence[Result]) -> None:
        """End a batch: its rows and ``more`` become its output and error files, in one transaction."""
        results = sorted([*self.results(batch.id), *more], key=lambda result: result.number)
        details, inserts = dict(details), []
        for key, failed in (("output_file_id", False), ("error_file_id", True)):
            lines = [result.line for result in results if result.failed == failed]
            if lines:
                content = "".join(line + "\n" for line in lines).encode()
                name = f"{batch.id}_{'error' if failed else 'output'}.jsonl"
                file, row = _new_file(batch.tenant, name, "batch_output", content)
                details[key] = file.id
                inserts.append(FILES.insert().values(**row))
        rows = ROWS.delete().where(ROWS.c.batch == batch.id)
        self.database.write(*inserts, rows, _set(batch.id, status, details))

    def _newest(self, query: Any, table: Table, tenant: str, limit: int, after: str | None) -> Any:
        query = query.where(table.c.tenant == tenant)
        if after is not None:
            mark = select(table.c.created).where(table.c.id == after, table.c.tenant == tenant).scalar_subquery()
            query = query.where((table.c.created < mark) | ((table.c.created == mark) & (table.c.id < after)))
        return query.order_by(table.c.created.desc(), table.c.id.desc()).limit(limit)


def _set(batch_id: str, status: str, details: Mapping[str, Any]) -> Any:
    unfinished = (BATCHES.c.id == batch_id) & BATCHES.c.status.in_(UNFINISHED)
    return BATCHES.update().where(unfinished).values(status=status, details=json.dumps(dict(details)))


def _new_file(tenant: str, name: str, purpose: str, content: bytes) -> tuple[StoredFile, dict[str, Any]]:
    file = StoredFile(f"file-{secrets.token_hex(16)}", tenant, time.time(), name, purpose, len(content))
    return file, {**vars(file), "content": content}


def _batch(row: Any) -> Batch:
    fields = dict(row._mapping)
    return Batch(**{**fields, "details": json.loads(fields["details"])})
