"""The thread pool: forks, exits, idleness and many backends at once."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cpu_cases import make_batch, make_config, make_model
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.step import DecodeBatch, Laws, Stops

# Enough work that a pool is woken, and its stages shared.
BATCH = make_batch([(list(range(45)), 0, [1, 0, 5]), (list(range(50, 95)), 0, [2, 4, 3])])
TASKS = "/proc/self/task"
SOURCES = Path(__file__).parents[2] / "src/outthink/kernels/cpu/csrc"


def make_backend(threads: int) -> CpuBackend:
    return CpuBackend(make_model(make_config()), num_pages=6, threads=threads)


def test_a_forked_child_computes_the_same_with_threads_of_its_own():
    backend = make_backend(3)
    expected = backend.run(BATCH)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        same = np.array_equal(backend.run(BATCH), expected)
        threads = len(os.listdir(TASKS)) if os.path.isdir(TASKS) else 3  # a fork begins with one
        os.write(writing, f"same {same}, threads {threads}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"same True, threads 3"
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(backend.run(BATCH), expected)


def test_process_exits_with_a_backend_alive():
    code = """
        from cpu_cases import make_batch, make_config, make_model
        from outthink.kernels.cpu.backend import CpuBackend
        backend = CpuBackend(make_model(make_config()), num_pages=4, threads=4)
        backend.run(make_batch([(list(range(64)), 0, [1, 0, 3, 2])]))
        print("done")
    """
    path = os.pathsep.join(sys.path)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "done\n"


def test_idle_threads_use_no_processor():
    backends = [make_backend(4) for _ in range(4)]
    for backend in backends:
        backend.run(BATCH)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.4)
    # 16 spinning threads on any number of cores would use at least 0.4 s.
    assert time.process_time() - before < 0.1


def test_backends_run_beside_each_other():
    """Each has its own pool and memory; the interpreter lock is released, so the steps overlap."""
    backends = [make_backend(2) for _ in range(3)]
    expected = backends[0].run(BATCH)
    wrong = []

    def steps(backend: CpuBackend) -> None:
        wrong.extend(i for i in range(40) if not np.array_equal(backend.run(BATCH), expected))

    threads = [threading.Thread(target=steps, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not wrong


def test_a_second_thread_on_one_backend_is_refused():
    """Not made to wait: a step computes on pages that the caller knows, and another's step changes them."""
    backend = CpuBackend(make_model(make_config()), num_pages=128, threads=2)
    expected = backend.run(BATCH)
    laws = Laws(np.ones(1, np.uint64), np.ones(1), np.ones(1), np.zeros(1), np.zeros(1, np.int32))
    one, steps = np.ones(1, np.int32), 2000
    table = np.arange(128, dtype=np.int32)[None]
    batch = DecodeBatch(one, one, table, one * steps, one * 0, laws, [Stops((), ())], [b""])
    interrupt, done, counts = np.zeros(1, np.int32), threading.Event(), []
    said = set()

    def decode() -> None:
        while not done.is_set():
            try:
                counts.append(backend.decode(batch, steps, 60.0, interrupt).steps)
            except RuntimeError as error:
                said.add(str(error))

    thread = threading.Thread(target=decode)
    thread.start()
    refused, deadline = set(), time.monotonic() + 60
    while len(refused) < 4 and time.monotonic() < deadline:
        for name, call in {
            "run": lambda: backend.run(BATCH),
            "copy": lambda: backend.copy_pages(one, one),
            "sample": lambda: backend.sample(np.zeros((1, 101), np.float32), one, laws),
            "spell": lambda: backend.spell([b"a"]),
        }.items():
            try:
                call()
            except RuntimeError as error:
                said.add(str(error))
                refused.add(name)
    done.set()
    interrupt[0] = 1
    thread.join(60)
    assert not thread.is_alive()
    assert refused == {"run", "copy", "sample", "spell"}
    assert said == {"Another thread is computing on this backend; one at a time may use it."}
    assert counts
    assert all(counts)
    assert np.array_equal(backend.run(BATCH), expected)


def run_sleepers(directory: Path, pool: str, patience: int, *options: str) -> int:
    """The exit code of ``pool_sleepers.cpp`` with this source of the pool."""
    assert shutil.which("c++"), "this check compiles the thread pool by itself: install c++"
    (directory / "pool.cpp").write_text(pool)
    files = [Path(__file__).parent / "pool_sleepers.cpp", directory / "pool.cpp"]
    common = ["-std=c++20", "-pthread", f"-I{SOURCES}", "-o", directory / "sleepers"]
    subprocess.run(["c++", *common, *options, *files], check=True, capture_output=True)
    # Another sanitizer's library, which the tests may run under, does not go with the one that this is built for.
    alone = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run([directory / "sleepers", str(patience)], env=alone, check=False).returncode


@pytest.mark.parametrize(("broken", "patience", "code"), [(False, 60, 0), (True, 1, 1)])
def test_a_helper_that_fell_asleep_between_two_stages_comes_again(tmp_path: Path, broken, patience, code):
    pool = (SOURCES / "pool.cpp").read_text()
    wake = "if (much_ && shared.asleep.load(std::memory_order_seq_cst) > 0) shared.wake();"
    assert pool.count(wake) == 1
    assert run_sleepers(tmp_path, pool.replace(wake, "") if broken else pool, patience) == code


@pytest.mark.slow
def test_the_pool_has_no_races_under_the_thread_sanitizer(tmp_path: Path):
    pool = (SOURCES / "pool.cpp").read_text()
    assert run_sleepers(tmp_path, pool, 60, "-O1", "-g", "-fsanitize=thread") == 0
