"""Our own server as others use it: whole completions over HTTP, and a count of the positions that they take."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "engine" / "drivers"))

import uvicorn
from protocol import serve

import outthink.serve.app
from outthink.core.budget import Budget
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.lm.model import load as load_model
from outthink.serve.config import ServeConfig
from outthink.serve.service import Service

MANY = 1024  # requests at once


class Forgetful(Service):
    """A service whose cache is seen within one search alone; or, where it is not ``shared``, within one request."""

    searches = requests = 0
    shared = True

    def lm(self, tenant: str, budget: Budget, sampling: Sampling | None = None) -> LocalLM:
        """See `Service.lm`."""
        self.requests += 1
        own = f"{self.searches}" if self.shared else f"{self.searches}/{next(self._numbers)}"
        return super().lm(f"{tenant}/{own}", budget, sampling)

    _numbers = itertools.count()


class Server:
    """Serves ``model`` on a free port of this machine."""

    def __init__(self, model: str) -> None:
        self.model = load_model(model)
        made: list[Forgetful] = []

        def make_service(*arguments: Any) -> Forgetful:
            made.append(Forgetful(*arguments))
            return made[-1]

        outthink.serve.app.Service = make_service  # pyright: ignore[reportAttributeAccessIssue]  what the app is made with
        app = outthink.serve.app.make_app(self.model, ServeConfig(port=0, max_running=MANY, max_waiting=MANY))
        (self.service,) = made
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", server_header=False))
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        while not server.started:
            threading.Event().wait(0.01)
        self.told = {"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"}

    def begin(self, shared: bool) -> dict[str, Any]:
        """Forget what was cached. ``shared``: whether requests from now on find what others computed."""
        self.service.shared = shared
        self.service.searches += 1
        return {}

    def counts(self) -> dict[str, Any]:
        """Requests that were answered so far; positions computed for them and tokens drawn."""
        positions, drawn = self.model.thread.call(self._read)  # pyright: ignore[reportGeneralTypeIssues]
        return {"requests": self.service.requests, "positions": positions, "drawn": drawn}

    def _read(self) -> tuple[int, int]:
        stats = self.model.engine.stats
        return stats.positions, stats.drawn


def load(asked: dict[str, Any]) -> Server:
    """The runner of a ``load`` request."""
    return Server(asked["model"])


if __name__ == "__main__":
    serve(load, ("outthink", "uvicorn"))
