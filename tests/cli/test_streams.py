"""Output that breaks, and streams that were closed by whoever started the program."""

import subprocess
import sys

import pytest

SOLVE = ["solve", "compute 1 + 1", "--n", "2"]
GENERATE = ["generate", "compute 1 + 1", "--chat", "--max-tokens", "5"]


def outthink(command, redirect):
    line = f'exec "$0" -m outthink "$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", [SOLVE, GENERATE], ids=["solve", "generate"])
def test_a_full_disk_is_said_once(command):
    done = outthink(command, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr.count("cannot write the output") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "redirect"), [(SOLVE, ">&-"), (["solve", "-"], "<&-")])
def test_closed_streams_are_no_crash(command, redirect):
    done = outthink(command, redirect)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if command is SOLVE else 2)


def test_the_answer_is_told_before_a_page_that_cannot_be_written():
    done = outthink([*SOLVE, "--tree", "/dev/full"], "")
    assert done.returncode == 2
    assert "answer" in done.stdout


@pytest.mark.parametrize(
    "command", [[*SOLVE, "-o", "max_tokens=abc"], [*SOLVE, "--device", "mps"], ["solve", "compute 1 + 1", "--n", "0"]]
)
def test_mistakes_end_in_one_line(command):
    done = outthink(command, "")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
