"""How much of the processors the control groups of Linux leave to this process, as containers set it."""

from __future__ import annotations

import math
from pathlib import Path


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float:
    """How many processors' time the control groups of this process allow it, infinity where they set no limit.

    Of the group and those above it the tightest counts. In a container the mount begins at its own group, whatever
    path is told.
    """
    tightest = math.inf
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return tightest
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, read = mounted, _read_max
        elif "cpu" in controllers.split(","):
            root, read = mounted / "cpu", _read_cfs
        else:
            continue
        group = root / path.strip("/")
        while group.is_relative_to(root):
            tightest = min(tightest, read(group))
            group = group.parent
    return tightest


def _read_max(group: Path) -> float:
    """Of a group of version 2: "max 100000" or "150000 100000"."""
    return _ratio(_words(group / "cpu.max"))


def _read_cfs(group: Path) -> float:
    """Of a group of version 1, where -1 stands for no limit."""
    return _ratio(_words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us"))


def _ratio(words: list[str]) -> float:
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return math.inf
    return int(words[0]) / int(words[1])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
