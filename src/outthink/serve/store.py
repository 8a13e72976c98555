"""Jobs that outlive a connection and a process, in a database."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from outthink.serve.database import SETTINGS, SOLVES, Database, StoreError

UNFINISHED = ("queued", "running")
KEPT = 1000


@dataclass(frozen=True)
class Job:
    """A solve as it is stored. ``status``: queued, running, done, failed or cancelled; times in seconds, epoch.

    ``owner``: the process that works on it; ``model``: who answers; ``deaths``: of processes that worked on it.
    """

    id: str
    tenant: str
    created: float
    updated: float
    status: str
    request: Mapping[str, Any]
    result: Mapping[str, Any] | None
    owner: str | None = None
    model: str | None = None
    deaths: int | None = None


class Store:
    """The solves in a database. Blocking; safe to use from several threads. Raises StoreError where it refuses.

    ``kept``: of each tenant no more solves that are over stay there, the last to end.
    """

    def __init__(self, database: Database, kept: int = KEPT) -> None:
        self.database, self.kept = database, kept

    @property
    def secret(self) -> bytes:
        """32 random bytes that stay the same for as long as the database lives: the key of tenants' names."""
        query = select(SETTINGS.c.value).where(SETTINGS.c.name == "secret")
        found = self.database.all(query)
        if not found:
            try:
                self.database.write(SETTINGS.insert().values(name="secret", value=secrets.token_hex(32)))
            except StoreError:  # another server that shares the database may have been quicker
                if not self.database.all(query):
                    raise
            found = self.database.all(query)
        return bytes.fromhex(found[0][0])

    def add(self, tenant: str, model: str, request: Mapping[str, Any]) -> Job:
        """A new job, queued, for this process to do."""
        now, name = time.time(), f"solve-{secrets.token_hex(16)}"
        job = Job(name, tenant, now, now, "queued", request, None, self.database.owner, model)
        row = {**vars(job), "request": json.dumps(dict(request)), "result": None}
        self.database.write(SOLVES.insert().values(**row))
        return job

    def get(self, job_id: str, tenant: str) -> Job | None:
        """A job of ``tenant``; None where there is none of that name, or it is another's."""
        found = self.database.all(select(SOLVES).where(SOLVES.c.id == job_id, SOLVES.c.tenant == tenant))
        return _job(found[0]) if found else None

    def adopted(self, model: str) -> list[Job]:
        """Every unfinished job that is ``model``'s and this process's, those of dead processes too, oldest first."""
        self.database.adopt(SOLVES, UNFINISHED, model)
        own = SOLVES.c.status.in_(UNFINISHED) & (SOLVES.c.owner == self.database.owner)
        return [_job(row) for row in self.database.all(select(SOLVES).where(own).order_by(SOLVES.c.created))]

    def recent(self, tenant: str, limit: int) -> list[Job]:
        """The newest jobs of ``tenant``, newest first."""
        query = select(SOLVES).where(SOLVES.c.tenant == tenant).order_by(SOLVES.c.created.desc())
        return [_job(row) for row in self.database.all(query.limit(limit))]

    def set(self, job_id: str, status: str, result: Mapping[str, Any] | None = None) -> None:
        """Note where a job stands; one that is over stays as it is.

        With one that is over, those of its tenant go that ended before the last `kept` of them.
        """
        values: dict[str, Any] = {"status": status, "updated": time.time()}
        if result is not None:
            values["result"] = json.dumps(dict(result))
        open_job = (SOLVES.c.id == job_id) & SOLVES.c.status.in_(UNFINISHED)
        write = SOLVES.update().where(open_job).values(**values)
        self.database.write(write, *([] if status in UNFINISHED else [self._outdated(job_id)]))

    def remove(self, job_id: str, tenant: str) -> bool:
        """Delete a job of ``tenant`` that is over. Returns whether it was there."""
        own = (SOLVES.c.id == job_id) & (SOLVES.c.tenant == tenant)
        return self.database.write(SOLVES.delete().where(own & SOLVES.c.status.not_in(UNFINISHED))) == 1

    def _outdated(self, job_id: str) -> Any:
        tenant = select(SOLVES.c.tenant).where(SOLVES.c.id == job_id).scalar_subquery()
        over = (SOLVES.c.tenant == tenant) & SOLVES.c.status.not_in(UNFINISHED)
        newest = select(SOLVES.c.id).where(over).order_by(SOLVES.c.updated.desc(), SOLVES.c.id).limit(self.kept)
        return SOLVES.delete().where(over & SOLVES.c.id.not_in(newest))

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _job(row: Any) -> Job:
    fields = dict(row._mapping)
    result = fields["result"]
    return Job(**{**fields, "request": json.loads(fields["request"]), "result": json.loads(result) if result else None})
