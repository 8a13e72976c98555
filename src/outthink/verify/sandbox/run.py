"""Running a Python program that nobody vouches for, and what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from outthink.core.errors import CapabilityError, UserError

CHILD = Path(__file__).with_name("child.py")
GRACE_S = 5.0  # how long the child may take to end what it started, before it is killed itself
START_S = 20.0  # how long the probe may take on a busy machine


@dataclass(frozen=True)
class Outcome:
    """``exit_code``: of the program, minus the signal that ended it; None where it was ended for its ``reason``."""

    stdout: str
    stderr: str
    exit_code: int | None
    reason: Literal["finished", "time", "output"]


@dataclass(frozen=True)
class Sandbox:
    """Limits of a program: ``seconds`` of wall time, ``cpu_seconds``, bytes of memory, of files in its own temporary
    directory and of output, and ``threads``.

    A program sees the Python standard library, read-only, and an empty directory; it has no network, no environment,
    no other process in sight, and can start none; whatever it does, it is gone when `run` returns or is cancelled.
    That takes Linux 5.12 with user namespaces, on x86-64 or ARM64. Elsewhere `run` raises CapabilityError, unless
    ``unprotected``: then the limits of time, memory and size hold, and nothing else does.

    What it does not protect from: faults of the kernel, whose whole interface a program may call; measuring the machine
    (load, timing); using its share of the processor until its time is up. It is no place for the code of somebody who
    is out to attack you: use a virtual machine for that.
    """

    seconds: float = 5.0
    cpu_seconds: int = 5
    memory_bytes: int = 256 << 20
    disk_bytes: int = 8 << 20
    output_bytes: int = 64 << 10
    threads: int = 16
    unprotected: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "unprotected" and not value > 0:
                raise UserError(f"Sandbox {name}={value!r} must be above 0.")

    def check(self) -> None:
        """Raise CapabilityError where this machine cannot keep what a sandbox promises. Takes a tenth of a second."""
        with tempfile.TemporaryDirectory(prefix="outthink-") as place:
            try:
                subprocess.run(  # noqa: S603  (our own child, and no shell)
                    self._command(place), input=b"pass", capture_output=True, env={}, check=False, timeout=START_S
                )
            except subprocess.TimeoutExpired as error:
                raise CapabilityError(f"A sandbox took over {START_S:g} s to start: is the machine busy?") from error
            self._refuse(place)

    async def run(self, program: str) -> Outcome:
        """Run ``program`` to its end, or to the end of its time or output. Cancelling ends it.

        Raises CapabilityError as `check` does, before the program runs.
        """
        with tempfile.TemporaryDirectory(prefix="outthink-") as place:
            process = await asyncio.create_subprocess_exec(
                *self._command(place),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={},
                start_new_session=True,
            )
            try:
                outcome = await self._watch(process, program)
            finally:
                await asyncio.shield(_end(process))
            self._refuse(place)
            return outcome

    async def _watch(self, process: asyncio.subprocess.Process, program: str) -> Outcome:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        streams = bytearray(), bytearray()
        reads = [_read(pipe, into, self.output_bytes)
                 for pipe, into in zip((process.stdout, process.stderr), streams, strict=True)]  # fmt: skip
        reason: Literal["finished", "time", "output"] = "finished"
        try:
            async with asyncio.timeout(self.seconds):
                with suppress(BrokenPipeError, ConnectionResetError):  # it may end before it has read all
                    process.stdin.write(program.encode(errors="replace"))
                    await process.stdin.drain()
                process.stdin.close()
                await asyncio.gather(*reads)
                await process.wait()
        except TimeoutError:
            reason = "time"
        except _TooMuchError:
            reason = "output"
        out, err = (bytes(stream[: self.output_bytes]).decode(errors="replace") for stream in streams)
        code = process.returncode if reason == "finished" else None
        return Outcome(out, err, code if code is None or code < 128 else 128 - code, reason)

    def _command(self, place: str) -> list[str]:
        limits = asdict(self) | {"place": place, "parent": os.getpid(), "prefix": sys.base_prefix}
        return [_python(), "-I", "-S", "-B", str(CHILD), json.dumps(limits)]

    def _refuse(self, place: str) -> None:
        note = Path(place, "refused")
        if why := note.read_text() if note.exists() else "":
            raise CapabilityError(
                f"This machine cannot shut a program in: {why}. Nothing was run. Where you trust the "
                "programs, or the machine is one to lose, use Sandbox(unprotected=True)."
            )


class _TooMuchError(Exception):
    """More output than allowed."""


def _python() -> str:
    """The interpreter itself rather than a virtual environment's, which would look for its packages."""
    return getattr(sys, "_base_executable", None) or sys.executable


async def _read(pipe: asyncio.StreamReader, into: bytearray, most: int) -> None:
    while chunk := await pipe.read(1 << 14):
        into += chunk
        if len(into) > most:
            raise _TooMuchError


async def _end(process: asyncio.subprocess.Process) -> None:
    """See the child and all that it started gone."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)  # it ends what it started, and reaps it
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
    for pipe in (process.stdout, process.stderr):  # to their ends, so that the loop lets go of them
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while pipe is not None and await pipe.read(1 << 14):
                    pass
    await asyncio.sleep(0)
