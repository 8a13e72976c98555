"""A real server on a free port of this machine, over a tiny model, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from outthink.lm.model import Model
from outthink.serve.app import make_app
from outthink.serve.config import ServeConfig
from outthink.serve.connection import HEAD_SECONDS, connections
from outthink.serve.process import GracefulServer
from outthink.serve.tracing import Tracing


@dataclass
class Client:
    """Sends requests to a server; ``key`` as a bearer token."""

    port: int
    key: str | None = None
    server: GracefulServer | None = None

    @property
    def state(self) -> Any:
        """What the application behind `server` keeps: service, jobs, batches."""
        assert self.server is not None
        return self.server.config.app.app.state  # type: ignore[union-attr]

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own, and the whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if raw is not None:
            sent["Content-Type"] = "application/json"
        connection.request(method, path, raw, {**sent, **(headers or {})})
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.send("POST", path, body, headers)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of each server-sent event; the last must be the end mark, which is left out."""
        pieces = [piece.removeprefix(b"data: ") for piece in self.body.split(b"\n\n") if piece]
        assert pieces[-1] == b"[DONE]"
        return [json.loads(piece) for piece in pieces[:-1]]


@contextmanager
def served(
    model: Model,
    *,
    send_buffer: int | None = None,
    head_seconds: float = HEAD_SECONDS,
    tracing: Tracing | None = None,
    **settings: Any,
) -> Iterator[Client]:
    """A running server for ``model``; it is told to stop, and has stopped, when the block is left.

    ``send_buffer``: the bytes that its system keeps for a connection whose reader is slow. For ``head_seconds`` see
    `connections`, for ``tracing`` `make_app`.
    """
    config = ServeConfig(port=0, **settings)
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    app = make_app(model, config, tracing)
    server = GracefulServer(connections(app, config, head_seconds), app.app.state.service.gate, config.drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        threading.Event().wait(0.01)
    try:
        yield Client(listener.getsockname()[1], settings["api_keys"][0] if settings.get("api_keys") else None, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


def begin_request(client: Client, path: str, body: Any) -> socket.socket:
    """A request that is sent, and whose answer is not waited for: close the socket to leave."""
    data = json.dumps(body).encode()
    raw = socket.create_connection(("127.0.0.1", client.port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    raw.sendall(head.encode() + b"\r\n\r\n" + data)
    return raw


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
