"""A hold on one sequence of an engine, from the side of the coroutines that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from outthink.core.errors import BranchClosedError
from outthink.engine.engine import Engine
from outthink.engine.sequence import Extend, Judge, Reading, Sequence, Task
from outthink.engine.thread import EngineThread
from outthink.lm.reply import Reply

Ends = tuple[Callable[..., None], Callable[[BaseException], None]]
"""How a task ends: ``done`` and ``failed``."""


class Handle:
    """``sequence`` of ``engine``, which ``thread`` steps, held open until `close`; and what was asked of it.

    Make one with `open_handle`, or of a sequence that a task handed over.
    """

    def __init__(self, thread: EngineThread, engine: Engine, sequence: Sequence) -> None:
        self.thread, self.engine, self.sequence = thread, engine, sequence
        self.closed = False
        self._tasks: set[Task] = set()

    async def run(self, make: Callable[[Sequence, Ends], Extend | Reading]) -> Any:
        """Start the task that ``make`` makes and wait for its result; cancelling the wait cancels the task.

        Raises BranchClosedError where the handle is closed meanwhile, EngineError where the engine fails.
        """

        def discard(result: Any) -> None:
            self._submit(partial(_close_all, self.engine, _left_over(task, result)))

        def done(result: Any) -> None:
            self._tasks.discard(task)
            reply.send(result)

        def failed(error: BaseException) -> None:
            self._tasks.discard(task)
            reply.fail(error)
            self._submit(lambda: self.engine.cancel(task))

        reply = Reply[Any](discard)
        task = make(self.sequence, (done, failed))
        self._tasks.add(task)
        self._submit(lambda: self.engine.start(task))
        try:
            return await reply.wait()
        except asyncio.CancelledError:
            self._tasks.discard(task)
            self._submit(lambda: self.engine.cancel(task))
            raise

    def close(self) -> None:
        """Give the sequence up; tasks that were asked of it end with a BranchClosedError. Once is enough."""
        if not self.closed:
            self.closed = True
            self._submit(self._close_now)

    def _close_now(self) -> None:
        for task in list(self._tasks):
            self.engine.cancel(task)
            task.failed(BranchClosedError("The branch was closed while it was being extended, scored or judged."))
        self.engine.close(self.sequence)

    def _submit(self, command: Callable[[], None]) -> None:
        self.thread.submit(command, self.engine)


async def open_handle(thread: EngineThread, engine: Engine, make: Callable[[], Sequence]) -> Handle:
    """A handle on a sequence made on the stepping thread; closed again where nobody waits for it any more.

    Raises EngineError where the engine has stopped.
    """

    def open_now() -> None:
        if (failure := engine.failure) is not None:
            reply.fail(failure)
        else:
            reply.send(make())

    reply = Reply[Sequence](lambda sequence: thread.submit(lambda: engine.close(sequence), engine))
    thread.submit(open_now, engine)
    return Handle(thread, engine, await reply.wait())


def _left_over(task: Task, result: Any) -> list[Sequence]:
    """The sequences that a finished task hands over, where nobody takes its result."""
    if isinstance(task, Extend):
        return task.children
    return [result[1]] if isinstance(task, Judge) and result[1] is not None else []


def _close_all(engine: Engine, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        engine.close(sequence)
