"""`outthink serve` as a process of its own, which can be killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve_world import Client, until


@dataclass
class ServerProcess:
    """A process, what it wrote so far, and a client of it."""

    process: subprocess.Popen[bytes]
    log: Path
    client: Client

    def kill(self) -> None:
        """End it as the system does when memory runs out: it cannot do anything about it."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def server_process(model: Path, log: Path, *options: object) -> Iterator[ServerProcess]:
    """``outthink serve`` for ``model`` on a free port; killed when the block is left, if it has not ended."""
    with log.open("wb") as file:
        command = [sys.executable, "-m", "outthink", "serve", str(model), "--port", "0", *map(str, options)]
        process = subprocess.Popen(command, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        ports: list[int] = []

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            if (found := re.search(r"on http://127\.0\.0\.1:([0-9]+)/", log.read_text())) is None:
                return False
            ports.append(int(found[1]))
            return True

        until(listens, 120)
        client = Client(ports[0])
        until(lambda: client.get("/health").status == 200)
        yield ServerProcess(process, log, client)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
