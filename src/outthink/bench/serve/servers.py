"""The servers that are measured: each a process of its own, on a free port, with the same weights and threads."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outthink.bench.engine.weights import Subject
from outthink.core.errors import CapabilityError

OURS, THEIRS = "outthink", "llama-cpp-python"
START_S = 300.0
STOP_S = 60.0
# Of our interpreter, or deciding how many threads a library starts.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "OUTTHINK_API_KEY")


@dataclass
class Server:
    """A running server. ``url`` has no path; ``asks`` are the fields by which it writes on past the end token."""

    name: str
    url: str
    model: str
    asks: dict[str, bool]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def rss(self) -> int:
        """Bytes of memory that its process holds now; 0 once it has ended."""
        try:
            with open(f"/proc/{self.process.pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def close(self) -> None:
        """End it, with patience for what it has to do."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_ours(subject: Subject, threads: int, log: Path, options: Sequence[str] = ()) -> Server:
    """`outthink serve`. Raises CapabilityError where it does not start."""
    command = [sys.executable, "-m", "outthink", "serve", str(subject.directory), "--port", "0"]
    process = _start([*command, "--database", "sqlite://", *options], log, threads, keep_path=True)

    def found() -> str | None:
        said = re.search(r"serving \S+ on (http://\S+)/", log.read_text(errors="replace"))
        return None if said is None else said[1]

    return Server(OURS, _wait(process, found, log), subject.directory.name, {"ignore_eos": True}, process, log)


def start_theirs(weights: Path, python: Path, context: int, threads: int, log: Path) -> Server:
    """llama-cpp-python's server with ``weights`` in GGUF. Raises CapabilityError where it does not start.

    A request does not interrupt another, and no logits are kept but those that are sampled from.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": weights, "model_alias": "model", "host": "127.0.0.1", "port": port, "n_ctx": context,
        "n_threads": threads, "n_threads_batch": threads, "logits_all": "false", "interrupt_requests": "false",
        "verbose": "false",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    process = _start([str(python), "-m", "llama_cpp.server", *arguments], log, threads)
    url = f"http://127.0.0.1:{port}"

    def found() -> str | None:
        with socket.socket() as probe:
            return url if probe.connect_ex(("127.0.0.1", port)) == 0 else None

    return Server(THEIRS, _wait(process, found, log), "model", {}, process, log)


def _start(command: list[str], log: Path, threads: int, keep_path: bool = False) -> subprocess.Popen[bytes]:
    """A process that ctrl-C in the terminal does not reach."""
    dropped = [name for name in _NOT_INHERITED if not (keep_path and name == "PYTHONPATH")]
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603
            command,
            stdout=file,
            stderr=file,
            env={**environment, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], found: object, log: Path) -> str:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        if (url := found()) is not None:  # type: ignore[operator]
            return url
        time.sleep(0.1)
    process.kill()
    process.wait()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise CapabilityError(f"A server did not start; see {log}. It ended: {' | '.join(lines[-3:])}")
