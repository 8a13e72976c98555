"""Jobs that outlive a connection and a process, in a database."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine, event, select
from sqlalchemy.engine import Engine as Database
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from outthink.core.errors import OutthinkError, UserError

_METADATA = MetaData()
_SOLVES = Table(
    "solves",
    _METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("request", Text, nullable=False),
    Column("result", Text),
)
_SETTINGS = Table(
    "settings",
    _METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
UNFINISHED = ("queued", "running")


class StoreError(OutthinkError):
    """The database refused: it is full, locked or gone. What was being computed goes on."""


@dataclass(frozen=True)
class Job:
    """A solve as it is stored. ``status``: queued, running, done, failed or cancelled; times in seconds, epoch."""

    id: str
    tenant: str
    created: float
    updated: float
    status: str
    request: Mapping[str, Any]
    result: Mapping[str, Any] | None


class Store:
    """The jobs in the database at ``url``. Blocking; safe to use from several threads.

    Raises UserError for a URL that cannot be opened, and StoreError where the database refuses later.
    """

    def __init__(self, url: str) -> None:
        try:
            self._database = _open(url)
            _METADATA.create_all(self._database)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, SQLAlchemyError, OSError) as error:
            raise UserError(
                f"Cannot open the job database ({type(error).__name__}). Give --database an SQLAlchemy URL, such as "
                "sqlite:////var/lib/outthink/jobs.db or postgresql+psycopg://user@host/name."
            ) from error

    @property
    def secret(self) -> bytes:
        """32 random bytes that stay the same for as long as the database lives: the key of tenants' names."""
        found = self._one(select(_SETTINGS.c.value).where(_SETTINGS.c.name == "secret"))
        if found is None:
            value = secrets.token_hex(32)
            self._write(_SETTINGS.insert().values(name="secret", value=value))
            return bytes.fromhex(value)
        return bytes.fromhex(found[0])

    def add(self, tenant: str, request: Mapping[str, Any]) -> Job:
        """A new job, queued."""
        now = time.time()
        job = Job(f"solve-{secrets.token_hex(16)}", tenant, now, now, "queued", request, None)
        row = {**vars(job), "request": json.dumps(dict(request)), "result": None}
        self._write(_SOLVES.insert().values(**row))
        return job

    def get(self, job_id: str, tenant: str) -> Job | None:
        """A job of ``tenant``; None where there is none of that name, or it is another's."""
        found = self._one(select(_SOLVES).where(_SOLVES.c.id == job_id, _SOLVES.c.tenant == tenant))
        return None if found is None else _job(found)

    def unfinished(self) -> list[Job]:
        """Every job that is queued or was running, oldest first."""
        try:
            with self._database.connect() as connection:
                query = select(_SOLVES).where(_SOLVES.c.status.in_(UNFINISHED)).order_by(_SOLVES.c.created)
                return [_job(row) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            raise _refused(error) from error

    def recent(self, tenant: str, limit: int) -> list[Job]:
        """The newest jobs of ``tenant``, newest first."""
        try:
            with self._database.connect() as connection:
                query = select(_SOLVES).where(_SOLVES.c.tenant == tenant).order_by(_SOLVES.c.created.desc())
                return [_job(row) for row in connection.execute(query.limit(limit))]
        except SQLAlchemyError as error:
            raise _refused(error) from error

    def set(self, job_id: str, status: str, result: Mapping[str, Any] | None = None) -> None:
        """Note where a job stands; one that is over stays as it is."""
        values: dict[str, Any] = {"status": status, "updated": time.time()}
        if result is not None:
            values["result"] = json.dumps(dict(result))
        open_job = (_SOLVES.c.id == job_id) & _SOLVES.c.status.in_(UNFINISHED)
        self._write(_SOLVES.update().where(open_job).values(**values))

    def close(self) -> None:
        """Close every connection."""
        self._database.dispose()

    def _one(self, query: Any) -> Any:
        try:
            with self._database.connect() as connection:
                return connection.execute(query).first()
        except SQLAlchemyError as error:
            raise _refused(error) from error

    def _write(self, statement: Any) -> None:
        try:
            with self._database.begin() as connection:
                connection.execute(statement)
        except SQLAlchemyError as error:
            raise _refused(error) from error


def _open(url: str) -> Database:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database in (None, "", ":memory:"):
        return create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    Path(parsed.database).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = create_engine(parsed, connect_args={"timeout": 10})

    @event.listens_for(database, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return database


def _job(row: Any) -> Job:
    fields = dict(row._mapping)
    result = fields["result"]
    return Job(**{**fields, "request": json.loads(fields["request"]), "result": json.loads(result) if result else None})


def _refused(error: SQLAlchemyError) -> StoreError:
    return StoreError(f"The job database refused ({type(error).__name__}).")
