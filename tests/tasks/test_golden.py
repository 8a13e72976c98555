"""The problems of a seed are the same for ever: in every process, on every Python version, in every release.

``golden.json`` holds a digest for each family. Where a family changes on purpose, write it anew with
``python tests/tasks/test_golden.py > tests/tasks/golden.json`` and say so in the changelog: published figures were
measured on other problems.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from outthink.tasks.families import get_family
from outthink.tasks.laws import digest
from outthink.tasks.suites import CORE

GOLDEN = Path(__file__).with_name("golden.json")
DRAWS = [(seed, seed % 21 / 20) for seed in range(42)]


def digests() -> dict[str, str]:
    return {name: digest([get_family(name)], DRAWS) for name in CORE}


def interpreters() -> list[str]:
    """This one, and those of other supported versions that can be found."""
    found = [sys.executable]
    for minor in range(11, 20):
        if minor != sys.version_info.minor:
            named = shutil.which(f"python3.{minor}")
            installed = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")
            found += [path for path in (named, *map(str, sorted(installed))) if path is not None]
    # What is found may be a stand-in for a version that is not chosen.
    return [
        path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]


def test_problems_are_the_published_ones_on_every_python() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) == set(CORE)
    assert sys.executable in interpreters()
    # The families need nothing but Python, so an interpreter without our dependencies will do.
    path = str(Path(digest.__code__.co_filename).parents[2])
    for interpreter in interpreters():
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "5"}
        command = [interpreter, "-S", __file__]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert told.returncode == 0, f"{interpreter}: {told.stderr}"
        changed = {name for name, value in json.loads(told.stdout).items() if value != golden[name]}
        assert not changed, f"{interpreter} generates other problems of {', '.join(sorted(changed))}"


def test_a_changed_problem_changes_the_digest() -> None:
    assert digest([get_family("paths")], DRAWS[:-1]) != digest([get_family("paths")], DRAWS)
    assert len(set(json.loads(GOLDEN.read_text()).values())) == len(CORE)


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
