"""`outthink serve` in a process of its own, and the programs of others in environments of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from outthink.bench.engine.runners import environment_python

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 300.0
# Of this interpreter, of the terminal, or a way for a program to reach for something that is not on this machine.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OPENAI_API_KEY", "OUTTHINK_API_KEY")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Server:
    """A running server. ``url`` has no path."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def metrics(self) -> dict[str, float]:
        """Every value of `/metrics` that has no label but the model's, and the sum of those that have."""
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                key = name.partition("{")[0].rpartition(":")[2]
                found[key] = found.get(key, 0.0) + float(value)
        return found

    def wait_idle(self) -> None:
        """Until no branch is in the engine and none holds a page. Fails where that does not come about."""
        end = time.monotonic() + PATIENCE_S
        while True:
            seen = self.metrics()
            busy = ("num_sequences_running", "num_sequences_waiting", "num_requests_running", "kv_cache_usage_perc")
            if not any(seen[name] for name in busy):
                return
            assert time.monotonic() < end, f"pages are still held: {[(name, seen[name]) for name in busy]}"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The server, on any free port; it must end of its own accord when it is asked to."""
    directory = tmp_path_factory.mktemp("server")
    log = directory / "log"
    command = [sys.executable, "-m", "outthink", "serve", "--port", "0", "--database", f"sqlite:///{directory}/jobs.db"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield Server(_address(process, log), process)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(errors="replace")


def _address(process, log):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        said = re.search(r"serving \S+ on (http://\S+)/", log.read_text(errors="replace"))
        if said is not None and _answers(said[1]):
            return said[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _answers(url):
    try:
        return httpx.get(f"{url}/ready", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def environment():
    """A function: the interpreter of an environment of others' packages, which is made where it is not there yet."""
    return lambda name: environment_python(name, say=lambda line: print(line[:160], flush=True))


@pytest.fixture
def drive(environment, tmp_path):
    """A function that runs ``programs/NAME.py ARGUMENTS`` in an environment, and returns the JSON it prints last."""

    def run(name: str, script: str, *arguments: str, **variables: str):
        output = execute([environment(name), PROGRAMS / script, *arguments], tmp_path, **variables)
        return json.loads(output.strip().splitlines()[-1])

    return run


def execute(command, directory: Path, **variables: str) -> str:
    """What a program prints. Fails with the end of all it said where it does."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=directory,
        env={**inherited, **_OFFLINE, "HOME": str(directory), "XDG_CACHE_HOME": str(directory / "cache"), **variables},
        timeout=900,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    )
    return done.stdout
