"""From the start of a process to the first token of the model in the package, imports included."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

from outthink.bench.engine.driver import RunnerError

GOAL_S = 1.5
COMMAND = ("-m", "outthink", "generate", "compute 12 + 7 * 5", "--chat", "--temperature", "0", "--quiet")


def first_token_s(model: str | None = None) -> tuple[float, float]:
    """Seconds of wall time until the first byte of an answer, and of processor time that it took by then.

    The second is of use where other programs run. Raises RunnerError where nothing is written.
    """
    command = [sys.executable, *COMMAND, *(() if model is None else ("--model", model))]
    start = perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds, computed = perf_counter() - start, _processor_s(process.pid)
        process.kill()
    if not first:
        raise RunnerError(f"'{' '.join(command)}' wrote nothing")
    return seconds, computed


def _processor_s(pid: int) -> float:
    """User and system time of a running process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
