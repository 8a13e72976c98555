"""A runner in a process of its own, spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from outthink.core.errors import OutthinkError

# Of our interpreter, or deciding how many threads a library starts.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class RunnerError(OutthinkError):
    """A runner cannot do what it was asked, with what it said."""


class Driver:
    """Starts ``script`` under ``python``; `ask` sends one request and waits for its answer. Close it, or use ``with``.

    What the process prints goes to ``log``. Ctrl-C in the terminal does not reach it.
    """

    def __init__(self, python: Path, script: Path, log: Path, threads: int, timeout_s: float = 900.0) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        self._log, self._timeout_s = log, timeout_s
        with log.open("w") as file:
            self._process = subprocess.Popen(  # noqa: S603
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**environment, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises RunnerError where it failed, the process ended, or time ran out."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise RunnerError(self._death()) from None
        if not select.select([process.stdout], [], [], self._timeout_s)[0]:
            process.kill()
            raise RunnerError(f"no answer to '{request['op']}' within {self._timeout_s:.0f} s; see {self._log}")
        line = process.stdout.readline()  # an answer is written at once
        if not line:
            raise RunnerError(self._death())
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise RunnerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:  # a request that it never read
                continue

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _death(self) -> str:
        code = self._process.wait()
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with code {code}; see {self._log}. It ended: {' | '.join(lines[-3:])}"
