"""The compiled extension where it is missing or broken, and how many processors a container leaves."""

import importlib.abc
import math
import os
import sys
import warnings

import pytest

from hf_models import make_hf_model
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.quota import cpu_quota
from outthink.lm.model import open_backend

NAME = "outthink.kernels.cpu._core"
ERRORS = {
    "missing": (ModuleNotFoundError(f"No module named {NAME!r}", name=NAME), "are missing; install Outthink where"),
    "of another machine": (
        ImportError("/lib/libstdc++.so.6:\n version `GLIBCXX_3.4.32' not found", name=NAME),
        r"cannot be loaded \(/lib/libstdc\+\+.so.6: version `GLIBCXX_3.4.32' not found\); install Outthink again",
    ),
    "in need of another": (ModuleNotFoundError("No module named 'other'", name="other"), "No module named 'other'"),
}


@pytest.fixture(params=ERRORS)
def broken(request, monkeypatch):
    """An extension that cannot be imported; the words that must be told of it."""
    error, words = ERRORS[request.param]

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == NAME:
                raise error

    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    return words


def test_without_the_extension_plain_torch_computes_and_one_line_says_why(broken, tmp_path):
    make_hf_model("llama", tmp_path)
    assert extension.compiled() is None
    with pytest.warns(UserWarning, match=broken) as warned:
        _, backend = open_backend(tmp_path, "auto", "cpu", "auto", None)
    assert backend.name != "cpu" and len(warned) == 1 and "\n" not in str(warned[0].message)


def test_with_the_extension_nothing_is_told(tmp_path):
    make_hf_model("llama", tmp_path)
    assert extension.why_missing() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_backend(tmp_path, "auto", "cpu", "auto", None)[1].name == "cpu"


# Lines of /proc/self/cgroup, files of the mount, and the processors that are left.
QUOTAS = {
    "none": ("0::/", {}, math.inf),
    "no limit": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "two and a half": ("0::/", {"cpu.max": "250000 100000"}, 2.5),
    "of the one above": ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
    "the tightest": ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3),
    "told by the path outside": ("0::/docker/1f", {"cpu.max": "150000 100000"}, 1.5),
    "version 1": (
        "4:memory:/m\n1:cpu,cpuacct:/a",
        {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "200000"},
        2,
    ),
    "version 1, no limit": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    "not understood": ("0::/", {"cpu.max": "lots"}, math.inf),
    "of the memory's group": ("4:memory:/\n2:cpuacct:/", {"cpu/cpu.cfs_quota_us": "1"}, math.inf),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas(tmp_path, case):
    told, files, expected = QUOTAS[case]
    (tmp_path / "cgroup").write_text(told + "\n")
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "mounted") == expected


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path / "cgroup", tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 8), (2.0, 2), (2.1, 3), (0.3, 1), (64.0, 8)])
def test_usable_cores_are_those_of_affinity_and_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(extension, "cpu_quota", lambda: quota)
    assert extension.usable_cores() == cores
