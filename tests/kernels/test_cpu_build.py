"""A compiler that does not know an instruction set leaves that one out, and no other."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("unknown", "lost"), [("-mavx512bf16", "avx512"), ("-mf16c", "avx2"), ("-none", None)])
def test_one_unknown_flag_costs_one_instruction_set(tmp_path: Path, unknown: str, lost: str | None) -> None:
    assert shutil.which("cmake") and shutil.which("c++"), "this check configures a build: install cmake and c++"
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nfor flag; do [ "$flag" = {unknown} ] && exit 1; done\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    defined = {
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "Python_EXECUTABLE": sys.executable,
    }
    options = [f"-D{name}={value}" for name, value in defined.items()]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path / "build", *options], check=True, capture_output=True)
    commands = json.loads((tmp_path / "build/compile_commands.json").read_text())
    built = {Path(command["file"]).name: command["command"] for command in commands}
    expected = {"avx512", "avx2"} - {lost} if platform.machine() in ("x86_64", "AMD64") else set()
    assert {name for name in ("avx512", "avx2") if f"kernels_{name}.cpp" in built} == expected
    # What chooses among them knows which there are, and can itself be compiled and linked.
    assert {name for name in ("avx512", "avx2") if f"-DOUTTHINK_{name.upper()}" in built["dispatch.cpp"]} == expected
    assert "kernels_generic.cpp" in built
