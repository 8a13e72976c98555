"""The one thread that steps an engine, and the way in for everyone else."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future

from outthink.core.errors import EngineError
from outthink.engine.engine import Engine


class EngineThread:
    """Steps ``engine`` whenever there is something to do; sleeps otherwise. Holds no lock across a step.

    A step that raises ends every request in flight with an EngineError and refuses new ones.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._wake = threading.Event()
        self._gate = threading.RLock()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="outthink-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, command: Callable[[], None]) -> None:
        """Have ``command`` run on the stepping thread between two steps. Safe from any thread.

        Once the engine has stopped it runs at once, and hears from the engine that it has.
        """
        with self._gate:  # held to hand in a command, never across a step; so none is handed in after the last look
            if self._stopped:
                command()
            else:
                self.engine.submit(command)
        self._wake.set()

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
        self._wake.set()
        atexit.unregister(self.close)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                while self.engine.step() and not self._closing:
                    pass
            except BaseException as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
                failure = EngineError(f"The engine stopped: {type(error).__name__}: {error}")
                failure.__cause__ = error
                self.engine.fail(failure)
            if not self.engine.has_inbox and not self._closing:
                self._wake.wait()
        self.engine.fail(EngineError("The engine was closed."))
        with self._gate:
            self.engine.step_inbox()
            self._stopped = True
