"""The data of coming steps, made ahead of time in processes of their own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from multiprocessing.process import BaseProcess

import tokenizers

from outthink.core.errors import OutthinkError, TaskError
from outthink.learn.data import DataConfig, StepData, make_step

_AHEAD = 4
Steps = multiprocessing.Queue


class StepFeed:
    """The data of steps ``first``, ``first + 1``, ... in order, made by ``num_processes`` background processes in turn.

    A context manager: leaving it ends the processes. They also end by themselves when their parent is gone.
    """

    def __init__(self, config: DataConfig, first: int, num_processes: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._next, self._count = first, num_processes
        self._queues = [context.Queue(_AHEAD) for _ in range(num_processes)]
        # Each has its own queue, so that the steps keep their order.
        self._processes: list[BaseProcess] = [
            context.Process(
                target=_produce,
                args=(config, step, num_processes, self._queues[step % num_processes]),
                daemon=True,
            )
            for step in range(first, first + num_processes)
        ]

    def __enter__(self) -> StepFeed:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        for waiting in self._queues:
            waiting.close()
            waiting.join_thread()

    def __next__(self) -> StepData:
        """The next step's data. Raises TaskError with the message of whatever stopped a process."""
        source = self._queues[self._next % self._count]
        while True:
            try:
                data = source.get(timeout=5.0)
            except queue.Empty:
                if all(process.is_alive() for process in self._processes):
                    continue
                codes = [process.exitcode for process in self._processes]
                raise TaskError(f"A data process ended by itself (exit codes {codes}).") from None
            if isinstance(data, str):
                raise TaskError(data)
            self._next += 1
            return data


def _produce(config: DataConfig, first: int, stride: int, out: Steps[StepData | str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the trainer's to handle
    tokenizer = tokenizers.Tokenizer.from_str(config.tokenizer)
    step = first
    try:
        while _put(out, make_step(config, tokenizer, step)):
            step += stride
    except OutthinkError as error:
        _put(out, str(error))


def _put(out: Steps[StepData | str], item: StepData | str) -> bool:
    """Wait for room and put; False where the parent process is gone."""
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        try:
            out.put(item, timeout=2.0)
        except queue.Full:
            continue
        return True
    out.cancel_join_thread()  # nobody will ever read what is still in the pipe
    return False
