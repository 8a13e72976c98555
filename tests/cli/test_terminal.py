"""What a person at a terminal meets: progress, ctrl-C, a pipe that closes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli.tiny_model import PROBLEM, STEPS
from outthink.cli.interrupt import first_interrupt
from outthink.cli.progress import Progress
from outthink.core.budget import Budget, Ledger
from outthink.core.thought import Thought

PATIENCE_S = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": "src", "TERM": "xterm-256color", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


class Session:
    """A command whose stderr is a terminal and whose stdout is a pipe."""

    def __init__(self, *command: object) -> None:
        self.screen = b""
        self._terminal, inner = pty.openpty()
        arguments = [sys.executable, *map(str, command)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=inner, env=ENVIRONMENT)
        os.close(inner)

    def read_until(self, pattern: str) -> None:
        """Read the screen until ``pattern`` is on it."""
        limit = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.seen):
            assert time.monotonic() < limit, self.seen
            assert self._read(), self.seen

    def end(self) -> tuple[int, str]:
        """The exit code and all of stdout, once the command has ended by itself."""
        with ThreadPoolExecutor(1) as pool:  # a pipe that nobody reads holds up what is long
            told = pool.submit(self.process.communicate, timeout=2 * PATIENCE_S)
            while self._read():
                pass
            out, _ = told.result()
        os.close(self._terminal)
        return self.process.returncode, out.decode()

    @property
    def seen(self) -> str:
        """All that was ever on the screen, without the codes that move the cursor and colour."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen.decode(errors="replace"))

    def _read(self) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], PATIENCE_S)
        try:
            piece = os.read(self._terminal, 65536) if ready else b""
        except OSError:  # the other end is closed
            return False
        self.screen += piece
        return bool(piece)


def test_first_ctrl_c_cuts_the_work_and_answers(endless):
    session = Session("-m", "outthink", "solve", PROBLEM, "-m", endless, "-n", 4, "--json")
    session.read_until(r"\d{3,} tokens .*tok/s")
    session.process.send_signal(signal.SIGINT)
    code, out = session.end()
    told = json.loads(out)
    assert code == 0
    assert told["config"]["interrupted"] is True
    assert told["stopped"] == "budget"
    assert told["best"] is not None
    assert told["attempts"] == 4
    assert "ctrl-C: stop and answer now" in session.seen
    assert "Traceback" not in session.seen


def test_second_ctrl_c_ends_the_program(model):
    program = f"""
import asyncio, sys
import outthink.reason.solve as room
from outthink.cli import main

async def hang(*args, **options):
    print("hanging", file=sys.stderr, flush=True)
    await asyncio.sleep({PATIENCE_S})

room.think = hang
sys.argv = ["outthink", "solve", "x", "-m", {str(model)!r}]
main()
"""
    session = Session("-c", program)
    session.read_until("hanging")
    session.process.send_signal(signal.SIGINT)
    session.read_until("again to abort")
    session.process.send_signal(signal.SIGINT)
    code, out = session.end()
    assert (code, out) == (130, "")
    assert "Traceback" not in session.seen


def test_generate_streams_and_ctrl_c_keeps_what_was_written(endless):
    session = Session("-m", "outthink", "generate", "17", "-m", endless)
    assert session.process.stdout is not None
    first = os.read(session.process.stdout.fileno(), 4096).decode()
    assert first  # while the rest is still to be written
    session.process.send_signal(signal.SIGINT)
    code, out = session.end()
    assert code == 0
    assert (first + out).endswith("\n")
    assert set((first + out).splitlines()) <= {step.strip() for step in STEPS}
    assert "[budget]" in session.seen


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "outthink", "methods", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 1


def test_first_interrupt_hands_the_second_to_python():
    stopped = []
    before = signal.getsignal(signal.SIGINT)
    with first_interrupt(lambda: stopped.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert stopped == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopped == [1]
    assert signal.getsignal(signal.SIGINT) is before


class Watched:
    """As much of an `LM` as progress reads."""

    def __init__(self) -> None:
        self.tree, self.ledger = Thought(), Ledger(Budget(tokens=1000))


def test_progress_tallies_the_lines_that_are_finished():
    lm, progress = Watched(), Progress("title")
    progress.start(lm)  # type: ignore[arg-type]
    prompt = lm.tree.child()
    assert progress.tally() == (0, {})
    for text, finish in (
        ("a\nanswer: 7", "stop"),
        ("answer: 8", "stop"),
        ("answer: 7", "stop"),
        ("a", "length"),
        ("answer: 9", None),
    ):
        line = prompt.child()
        line.text, line.finish = text, finish
    assert progress.tally() == (4, {"7": 2, "8": 1})
    step = prompt.children[3].child()
    step.text, step.finish = "\nanswer: 8", "stop"
    assert progress.tally() == (4, {"7": 2, "8": 2})  # the line went on: its end counts, not its middle


def test_progress_reads_no_answer_into_a_line_that_was_cut():
    lm, progress = Watched(), Progress("title")
    progress.start(lm)  # type: ignore[arg-type]
    for text, finish in (
        ("answer: 4", "budget"),  # it may have been on its way to 42
        ("answer: 4", "cancelled"),
        ("answer: 7\nansw", "length"),
        ("answer: 42", "stop"),
    ):
        line = lm.tree.child()
        line.text, line.finish = text, finish
    assert progress.tally() == (4, {"7": 1, "42": 1})


def test_stopping_before_the_work_has_begun_ends_the_program():
    with pytest.raises(KeyboardInterrupt):
        Progress("title").stop()
