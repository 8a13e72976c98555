"""The thread pool: forks, exits, idleness and many backends at once."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np

from cpu_cases import make_batch, make_config, make_model
from outthink.kernels.cpu.backend import CpuBackend

BATCH = make_batch([([1, 2, 3], 0, [1])])


def make_backend(threads: int) -> CpuBackend:
    return CpuBackend(make_model(make_config()), num_pages=4, threads=threads)


def test_a_forked_child_computes_the_same():
    backend = make_backend(3)
    expected = backend.run(BATCH)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        same = np.array_equal(backend.run(BATCH), expected)
        os.write(writing, b"same" if same else b"other")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"same"
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(backend.run(BATCH), expected)


def test_process_exits_with_a_backend_alive():
    code = """
        from cpu_cases import make_batch, make_config, make_model
        from outthink.kernels.cpu.backend import CpuBackend
        backend = CpuBackend(make_model(make_config()), num_pages=4, threads=4)
        backend.run(make_batch([([1, 2, 3], 0, [1])]))
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
        wrong.extend(i for i in range(100) if not np.array_equal(backend.run(BATCH), expected))

    threads = [threading.Thread(target=steps, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not wrong
