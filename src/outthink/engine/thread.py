"""The one thread that steps an engine and those beside it, and the way in for everyone else."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from outthink.core.errors import EngineError
from outthink.engine.engine import Engine

CLOSED = "The model was closed and takes no more requests; load it again."


class EngineThread:
    """Steps ``engine``, and those added beside it in turn, whenever there is something to do; sleeps otherwise.

    Holds no lock across a step. A step that raises ends every request in flight of its engine with an EngineError and
    refuses new ones.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._engines = (engine,)
        self._companions: dict[Hashable, Any] = {}
        self._making = threading.Lock()
        self._wake = threading.Event()
        self._gate = threading.RLock()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="outthink-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, command: Callable[[], None], engine: Engine | None = None) -> None:
        """Have ``command`` run on the stepping thread between two steps of ``engine``, by default the first. Safe from
        any thread.

        Once the thread has stopped it runs at once, and hears from the engine that it has.
        """
        with self._gate:  # held to hand in a command, never across a step; so none is handed in after the last look
            if self._stopped:
                command()
            else:
                (engine or self.engine).submit(command)
                self._interrupt()
        if not self._wake.is_set():  # where it is, the thread has yet to look, and finds this too
            self._wake.set()

    def add(self, engine: Engine) -> None:
        """Step ``engine`` too from now on, after those that are there. Its requests are its own, the thread is not."""
        with self._gate:
            if self._stopped:
                engine.fail(EngineError(CLOSED))
            else:
                self._engines = (*self._engines, engine)

    def companion(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What goes with this thread under ``key``, made by ``make`` when first asked for. Safe from any thread."""
        with self._making:
            if key not in self._companions:
                self._companions[key] = make()
            return self._companions[key]

    def call(self, command: Callable[[], object]) -> object:
        """Run ``command`` on the stepping thread, wait for it, and return or raise what it does."""
        answer: Future[object] = Future()

        def run() -> None:
            try:
                answer.set_result(command())
            except BaseException as error:  # noqa: BLE001  it is raised again where the call was made
                answer.set_exception(error)

        self.submit(run)
        return answer.result()

    def close(self) -> None:
        """Stop stepping; requests in flight end with an EngineError."""
        self._closing = True
        self._interrupt()
        self._wake.set()
        atexit.unregister(self.close)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _turn(self) -> bool:
        """Step each engine; whether any may have more to do."""
        engines, more = self._engines, False
        for engine in engines:
            engine.alone = len(engines) == 1 or not any(other.busy for other in engines if other is not engine)
            more |= _step(engine)
        return more

    def _interrupt(self) -> None:
        """Have the engine whose turn it is come to its end soon."""
        for engine in self._engines:
            engine.interrupt()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            while self._turn() and not self._closing:
                pass
            if not self._closing:
                self._wake.wait()
        with self._gate:
            for engine in self._engines:
                engine.fail(EngineError(CLOSED))
                engine.step_inbox()
            self._stopped = True


def _step(engine: Engine) -> bool:
    """Step ``engine``; whether there may be more to do."""
    try:
        return engine.step()
    except BaseException as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
        failure = EngineError(f"The engine stopped: {type(error).__name__}: {error}")
        failure.__cause__ = error
        engine.fail(failure)
        return engine.has_inbox
