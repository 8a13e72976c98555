"""Programs that try to get out of the sandbox, to stay, or to take more than they may: each is contained, and gone.

Limits are tight, so that even a sandbox that failed would do this machine no harm.
"""

import asyncio
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from outthink.core.errors import CapabilityError, UserError
from outthink.verify.sandbox import Sandbox
from outthink.verify.sandbox.child import NEWUSER
from outthink.verify.sandbox.run import CHILD

SMALL = Sandbox(seconds=20, cpu_seconds=2, memory_bytes=64 << 20, disk_bytes=1 << 20, output_bytes=10_000, threads=4)


def alive():
    """Command lines of processes that a sandbox started, zombies included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text().split("\0")
        except OSError:  # it is gone
            continue
        if str(CHILD) in words or "main.py" in words:
            found.append(" ".join(words))
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    before = alive()
    yield
    assert alive() == before, "a process was left behind"


def run(program, sandbox=SMALL):
    return asyncio.run(sandbox.run(program))


def contained_or_refused(test):
    """A machine that cannot shut programs in must say so; there is nothing more to see there."""

    @functools.wraps(test)
    def either(*args, **options):
        try:
            test(*args, **options)
        except CapabilityError as refusal:
            if "Nothing was run" not in str(refusal):
                raise

    return either


@contained_or_refused
def test_a_program_runs_with_nothing_around_it():
    outcome = run(
        "import os, sys, json, math, random, threading\n"
        "done = []; t = threading.Thread(target=done.append, args=(1,)); t.start(); t.join()\n"
        "open('note', 'w').write('x' * 10)\n"
        "print([k for k in os.environ if k != 'LC_CTYPE'], sys.stdin.read() == '', done, open('note').read())\n"
        "print('error', file=sys.stderr); sys.exit(3)"
    )
    assert outcome.stdout == "[] True [1] xxxxxxxxxx\n"
    assert (outcome.stderr, outcome.exit_code, outcome.reason) == ("error\n", 3, "finished")


@contained_or_refused
def test_no_network():
    """Not even a server on this very machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 1).close()
        attempt = (
            "import socket\n"
            f"for where in (('127.0.0.1', {port}), ('1.1.1.1', 53)):\n"
            "    try: socket.create_connection(where, 1); print('connected')\n"
            "    except OSError as error: print('refused')\n"
        )
        assert run(attempt).stdout == "refused\nrefused\n"


@pytest.mark.parametrize(
    "start", ["os.fork()", "os.posix_spawn(sys.executable, [sys.executable, '-c', '1'], {})", "os.forkpty()"]
)
@contained_or_refused
def test_no_fork_bomb_and_no_daemon(start):
    """The kernel refuses to start a process at all: a hundred attempts, none of which may succeed."""
    outcome = run(
        "import os, sys\nstarted = 0\n"
        f"for _ in range(100):\n    try: {start}; started += 1\n    except OSError: pass\n"
        "print(started)"
    )
    assert outcome.stdout == "0\n"


@contained_or_refused
def test_threads_are_limited_and_end_with_the_program():
    outcome = run(
        "import threading, time\nthreading.stack_size(1 << 16)\nn = 0\n"
        "try:\n    for n in range(1000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "except RuntimeError: pass\n"
        "print(n)"
    )
    assert outcome.reason == "finished"
    if os.geteuid() != 0:  # the kernel counts no limit of tasks against root, only memory
        assert int(outcome.stdout) <= 4


@contained_or_refused
def test_memory_is_limited():
    outcome = run("held = []\nwhile True: held.append(bytearray(1 << 20))")
    assert outcome.exit_code == 1
    assert "MemoryError" in outcome.stderr


@contained_or_refused
def test_an_endless_loop_ends_by_its_time_or_its_processor_time():
    outcome = run("while True: pass", Sandbox(seconds=1, memory_bytes=64 << 20))
    assert (outcome.reason, outcome.exit_code) == ("time", None)
    outcome = run("while True: pass", Sandbox(seconds=60, cpu_seconds=1, memory_bytes=64 << 20))
    assert outcome.reason == "finished"
    assert outcome.exit_code in (-9, -24)


@contained_or_refused
def test_output_is_limited():
    outcome = run("import sys\nwhile True: sys.stdout.write('x' * 1000)")
    assert (outcome.reason, len(outcome.stdout)) == ("output", SMALL.output_bytes)


@contained_or_refused
def test_files_are_limited_and_nothing_is_written_elsewhere(tmp_path):
    target = tmp_path / "target"
    target.write_text("as it was")
    outcome = run(
        "import os, sys, tempfile\nwrote = 0\n"
        f"places = [{str(target)!r}, '/x', '/tmp/x', '/dev/shm/x', '/work/../x', sys.prefix + '/x', '/usr/lib/x']\n"
        "for place in places:\n    try: open(place, 'a').write('x'); wrote += 1\n    except OSError: pass\n"
        "print(wrote)\n"
        "try:\n    for n in range(100): open(f'big{n}', 'wb').write(bytes(1 << 19))\n"
        "except OSError as error: print(n < 4)\n"
    )
    assert outcome.stdout == "0\nTrue\n"
    assert target.read_text() == "as it was"


@contained_or_refused
def test_the_parent_s_environment_and_processes_are_out_of_sight(monkeypatch):
    monkeypatch.setenv("SECRET", "of the parent")
    outcome = run(
        "import os, signal\n"
        f"for pid in ({os.getpid()}, os.getppid(), 'self'):\n"
        "    try: print('SECRET' in open(f'/proc/{pid}/environ').read())\n    except OSError: print('hidden')\n"
        "for pid in (1, -1):\n    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass\n"
        f"try: os.kill({os.getpid()}, 0); print('seen')\nexcept OSError: print('not there')\n"
        "print(os.path.exists(os.path.expanduser('~/.ssh')), os.path.exists('/etc/passwd'))\n"
    )
    assert outcome.stdout == "hidden\nhidden\nhidden\nnot there\nFalse False\n"


@contained_or_refused
def test_no_way_back_out():
    """Neither new namespaces, nor another root, nor mounts, nor capabilities."""
    outcome = run(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.unshare({NEWUSER}), libc.mount(b'none', b'/work', b'tmpfs', 0, None), libc.chroot(b'/work'))\n"
        "print(libc.setuid(0), os.geteuid() != 0, os.path.exists('/proc/self'))\n"
        "print([fd for fd in range(3, 64) if os.path.exists(f'/dev/fd/{fd}')])"
    )
    assert outcome.stdout == "-1 -1 -1\n-1 True False\n[]\n"


@contained_or_refused
def test_cancelling_ends_the_program():
    async def work():
        task = asyncio.create_task(SMALL.run("import time\nwhile True: time.sleep(1)"))
        while not (task.done() or any("main.py" in line for line in alive())):
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises((asyncio.CancelledError, CapabilityError)):
        asyncio.run(work())


def test_a_machine_that_cannot_isolate_refuses_unless_told_to_go_on(monkeypatch, tmp_path):
    """As where user namespaces are switched off: the call that asks for them fails."""
    source, asking = CHILD.read_text(), "must(libc().unshare("
    assert source.count(asking) == 1
    child = tmp_path / "child.py"
    child.write_text(source.replace(asking, "must(-abs("))
    monkeypatch.setattr("outthink.verify.sandbox.run.CHILD", child)
    for attempt in (SMALL.check, lambda: run("print('ran')")):
        with pytest.raises(CapabilityError, match="unprotected=True"):
            attempt()
    assert run("print('ran')", Sandbox(seconds=20, unprotected=True)).stdout == "ran\n"
    outcome = run("held = bytearray(1 << 28)", Sandbox(seconds=20, memory_bytes=64 << 20, unprotected=True))
    assert "MemoryError" in outcome.stderr


def test_a_sandbox_that_leaves_something_behind_is_caught():
    """The check of every test above has power: a process of that name is found."""
    left = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)", "main.py"],
                            stdout=subprocess.PIPE)  # fmt: skip
    with left:
        assert left.stdout.readline() == b"1\n"
        found = [line for line in alive() if "main.py" in line]
        left.kill()
    assert found


def test_limits_are_checked():
    with pytest.raises(UserError, match="seconds=0"):
        Sandbox(seconds=0)
