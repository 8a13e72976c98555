#!/bin/sh
# Builds the CPU kernels with the address and undefined-behaviour sanitizers, and runs their tests on that build.
# Usage: tests/kernels/sanitized.sh [python] [pytest arguments]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$(command -v "${1:-python}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
[ $# -gt 0 ] && shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake -S "$root" -B "$work/build" -DOUTTHINK_SANITIZE=ON -DPython_EXECUTABLE="$python" >"$work/log"
cmake --build "$work/build" --parallel 2 >>"$work/log" 2>&1 || { tail -n 40 "$work/log"; exit 1; }
cp -r "$root/src" "$root/tests" "$root/pyproject.toml" "$root/CMakeLists.txt" "$work/"
find "$work/src" -name '_core*.so' -delete
cmake --install "$work/build" --prefix "$work/src" >>"$work/log"
cd "$work"
# Python itself does not free everything at its end.
export ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1
LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libubsan.so)" \
    "$python" -m pytest -p no:cacheprovider "$@" tests/kernels
