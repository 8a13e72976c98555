"""How long pages are held after nobody wants what they are for: ``python tests/release_times.py [MODEL]``.

Without a model, a tiny one whose lines do not end. Prints, for each way to leave, seconds from leaving to the last page
freed: the median and the longest of 20.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

import outthink
from cli.tiny_model import make_model
from outthink.lm.model import Model
from serve_world import Client, served, until

TRIALS = 20
BODY = {"messages": [{"role": "user", "content": "compute 17 + 5"}], "n": 8, "max_tokens": 1000, "ignore_eos": True}


def close(raw: socket.socket) -> None:
    """Leave in good manners."""
    raw.close()


def reset(raw: socket.socket) -> None:
    """Leave as a process that was killed."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def half_close(raw: socket.socket) -> None:
    """Send no more, and go on reading."""
    raw.shutdown(socket.SHUT_WR)


def held(model: Model) -> bool:
    """Whether any page is."""
    return bool(model.thread.call(model.engine.scheduler.leases))


def until_free(model: Model) -> float:
    """Seconds from now until no page is held."""
    began = time.monotonic()
    while held(model):
        time.sleep(0.001)
    return time.monotonic() - began


def left(client: Client, model: Model, leave, stream: bool) -> float:
    """Seconds for one client that leaves in mid-answer."""
    data = json.dumps({**BODY, "stream": stream}).encode()
    raw = socket.create_connection(("127.0.0.1", client.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    until(lambda: held(model))
    leave(raw)
    seconds = until_free(model)
    raw.close()
    return seconds


def deleted(client: Client, model: Model) -> float:
    """Seconds for one solve that is deleted, from before the request."""
    thinking = {"strategy": "majority-vote", "budget": 60_000, "options": {"n": 64}}
    job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": thinking}).json["id"]
    until(lambda: held(model))
    began = time.monotonic()
    client.send("DELETE", f"/v1/solves/{job}")
    return time.monotonic() - began + until_free(model)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        source = sys.argv[1] if sys.argv[1:] else make_model(Path(directory) / "m", ends=False, context=200_000)
        with outthink.load(source) as model, served(model) as client:
            ways = [
                (
                    f"{leave.__name__}, {'streamed' if stream else 'whole'}",
                    lambda a=(leave, stream): left(client, model, *a),
                )
                for leave in (close, reset, half_close)
                for stream in (False, True)
            ]
            for name, measure in [*ways, ("DELETE of a solve", lambda: deleted(client, model))]:
                seconds = [measure() for _ in range(TRIALS)]
                print(f"{name:24} median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
