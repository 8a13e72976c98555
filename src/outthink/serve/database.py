"""The database behind jobs and batches: its tables, their versions, and which server a piece of work belongs to."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy import create_engine as connect
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.engine import Engine as Connections
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from outthink.core.errors import OutthinkError, UserError

VERSION = 2
"""Of the tables. 1 had `SOLVES` without the last three columns, and `SETTINGS`; it is brought up when it is opened."""

METADATA = MetaData()
SETTINGS = Table(
    "settings",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
SOLVES = Table(
    "solves",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("request", Text, nullable=False),
    Column("result", Text),
    Column("owner", String(64)),
    Column("model", Text),
    Column("deaths", Integer),
)
FILES = Table(
    "files",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
BATCHES = Table(
    "batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("input_file", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("details", Text, nullable=False),
    Column("owner", String(64)),
    Column("model", Text),
    Column("deaths", Integer),
)
ROWS = Table(
    "batch_rows",
    METADATA,
    Column("batch", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("failed", Integer, nullable=False),
    Column("line", Text, nullable=False),
)
_OWNED = (SOLVES, BATCHES)
MAX_DEATHS = 3
"""Of processes that worked on a piece of work, before it is suspected to be the cause."""
log = logging.getLogger("outthink.serve")
_HELP = "Give --database an SQLAlchemy URL, such as sqlite:////var/lib/outthink/jobs.db or postgresql://user@host/name."


class StoreError(OutthinkError):
    """The database refused: it is full, locked or gone. What was being computed goes on."""


class Database:
    """The database at ``url``, SQLite or PostgreSQL, opened and brought to `VERSION`. Blocking; safe to use from
    several threads.

    ``owner`` names this process in what it works on. Several servers may share a database: a lock that the system lets
    go of when a process ends tells whether the owner of a piece of work lives.
    Raises UserError for a URL or a database that cannot be used, and StoreError where it refuses later.
    """

    def __init__(self, url: str) -> None:
        self.owner = secrets.token_hex(7)  # 56 bits: a key of PostgreSQL's advisory locks
        try:
            parsed = make_url(url)
            self._file = _file_of(parsed)
            self.connections = _connect(parsed, self._file, self.owner)
            # One in memory has a single connection, on which one thread's rollback would undo what another is writing.
            shared = isinstance(self.connections.pool, StaticPool)
            self._turn: AbstractContextManager[Any] = threading.Lock() if shared else nullcontext()
            self._lock = None if self._file is None else _locked(_lock_path(self._file, self.owner))
            with self.connections.begin() as connection:
                _check_whole(connection)
                _upgrade(connection)
        except (ArgumentError, NoSuchModuleError) as error:
            raise UserError(f"The job database's URL cannot be read. {_HELP}") from error
        except ModuleNotFoundError as error:
            raise UserError(
                f"The job database needs the package {error.name!r}: for PostgreSQL, pip install 'outthink[postgres]'."
            ) from error
        except (SQLAlchemyError, StoreError, OSError) as error:
            cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
            raise UserError(
                f"Cannot open the job database: it is damaged, locked, not to be reached or no database "
                f"({_kind(cause)}). {_HELP}"
            ) from error

    def all(self, query: Any) -> Sequence[Any]:
        """Every row that ``query`` finds. Raises StoreError."""
        try:
            with self._turn, self.connections.connect() as connection:
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            raise StoreError(f"The job database refused ({_kind(error)}).") from error

    def write(self, *statements: Any) -> int:
        """Execute ``statements`` in one transaction. Returns how many rows the last one changed; raises StoreError."""
        changed = 0
        try:
            with self._turn, self.connections.begin() as connection:
                for statement in statements:
                    changed = connection.execute(statement).rowcount
        except SQLAlchemyError as error:
            raise StoreError(f"The job database refused ({_kind(error)}).") from error
        return changed

    def adopt(self, table: Table, unfinished: Sequence[str], model: str) -> None:
        """Make this process the owner of ``model``'s unfinished work in ``table`` whose owner has ended.

        ``deaths`` counts how often that was not by `close`.
        """
        abandoned = table.c.status.in_(unfinished) & ((table.c.model == model) | table.c.model.is_(None))
        for (owner,) in self.all(select(table.c.owner).where(abandoned).distinct()):
            if owner is None or (owner != self.owner and not self._lives(owner)):
                same = table.c.owner.is_(None) if owner is None else table.c.owner == owner
                deaths = func.coalesce(table.c.deaths, 0) + int(owner is not None)
                self.write(table.update().where(abandoned & same).values(owner=self.owner, deaths=deaths))

    def close(self) -> None:
        """Let go of what this process owns, and close every connection."""
        try:
            self.write(*(table.update().where(table.c.owner == self.owner).values(owner=None) for table in _OWNED))
        except StoreError as error:  # it will count as dead
            log.warning("unfinished work was not let go of: %s", error)
        self.connections.dispose()
        if self._lock is not None and self._file is not None:
            _lock_path(self._file, self.owner).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _lives(self, owner: str) -> bool:
        if self._file is not None:
            path = _lock_path(self._file, owner)
            if not path.is_file():
                return False
            try:
                os.close(_locked(path))
            except BlockingIOError:
                return True
            path.unlink(missing_ok=True)
            return False
        if self.connections.dialect.name != "postgresql":
            return False
        key = int(owner, 16)
        with self.connections.connect() as connection:
            free = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
            if free:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
        return not free


def _connect(url: URL, file: Path | None, owner: str) -> Connections:
    kind = url.get_backend_name()
    if kind == "sqlite" and file is None:
        return connect(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # prompts and answers are in it
        made = connect(url.set(database=str(file)), connect_args={"timeout": 10})
        setup = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL")
    elif kind in ("postgresql", "postgres"):
        limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": "-c statement_timeout=20000"}
        made = connect(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=limits)
        setup = (f"SELECT pg_advisory_lock_shared({int(owner, 16)})",)
    else:
        raise UserError(f"A job database of the kind {kind!r} is not supported. {_HELP}")

    @event.listens_for(made, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        try:
            cursor = connection.cursor()
            for command in setup:
                cursor.execute(command)
            cursor.close()
            connection.commit()
        except made.dialect.loaded_dbapi.Error as error:  # not wrapped by SQLAlchemy, this early
            raise StoreError(f"The job database refused ({_kind(error)}).") from error

    return made


def _check_whole(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise UserError("The job database is damaged: restore it from a copy, or move it away to begin a new one.")


def _upgrade(connection: Connection) -> None:
    """Make the tables, or bring those of an earlier version up. Raises UserError for a later version's."""
    there = set(inspect(connection).get_table_names())
    found = 0
    if "settings" in there:
        stored = connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.name == "version")).scalar()
        found = 1 if stored is None else int(stored) if stored.isdigit() else VERSION + 1
    elif there & set(METADATA.tables):
        raise UserError(f"The job database holds tables of something else. {_HELP}")
    if found > VERSION:
        raise UserError(
            f"The job database has version {found}, and this Outthink knows {VERSION}: a newer one made it. Upgrade "
            "Outthink, or give another --database."
        )
    if found == VERSION:
        return
    if found == 1:
        columns = {column["name"] for column in inspect(connection).get_columns("solves")}
        for name, kind in (("owner", "VARCHAR(64)"), ("model", "TEXT"), ("deaths", "INTEGER")):
            if name not in columns:  # it may be: a kill can come between the steps
                connection.execute(text(f"ALTER TABLE solves ADD COLUMN {name} {kind}"))
    METADATA.create_all(connection)
    connection.execute(SETTINGS.delete().where(SETTINGS.c.name == "version"))
    connection.execute(SETTINGS.insert().values(name="version", value=str(VERSION)))


def _file_of(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).expanduser()


def _lock_path(file: Path, owner: str) -> Path:
    return file.with_name(f"{file.name}.{owner}.lock")


def _locked(path: Path) -> int:
    """A descriptor that holds ``path`` locked until it is closed, or its process ends. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _kind(error: BaseException) -> str:
    """What is told of a database's error: its kind, and never its text, which may hold the URL's password."""
    return type(error).__name__
