"""What is noted of every request, whatever becomes of it: its id, its status, its time, and a span where asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Scope

from outthink.serve.logs import REQUEST_ID
from outthink.serve.metrics import Metrics
from outthink.serve.timing import Timing
from outthink.serve.tracing import Tracing

MAX_LOGGED = 64 << 10
QUIET = ("/health", "/ready", "/metrics", "/api/status")
log = logging.getLogger("outthink.requests")


@dataclass
class Seen:
    """What has been seen of a request: the status of its answer, 499 where there was none; ``body`` where asked for."""

    status: int = 499
    body: bytearray = field(default_factory=bytearray)

    def keep(self, piece: bytes) -> None:
        """Keep a piece of the body for the log."""
        self.body += piece[: MAX_LOGGED - len(self.body)]


@dataclass(frozen=True)
class Watch:
    """Counts and logs requests. ``log_prompts``: with their bodies, which are kept out of logs otherwise."""

    metrics: Metrics
    tracing: Tracing = field(default_factory=Tracing)
    log_prompts: bool = False

    @contextmanager
    def request(self, scope: Scope, request_id: str) -> Iterator[Seen]:
        """Around everything that is done for a request."""
        seen, began = Seen(), Timing.begin().arrived
        token = REQUEST_ID.set(request_id)
        method, path = scope["method"], scope["path"]
        carrier = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k in _CONTEXT}
        facts = {"http.request.method": method, "url.path": path, "outthink.request_id": request_id}
        try:
            with self.tracing.request(f"{method} {path}"[:200], carrier, **facts) as span:
                try:
                    yield seen
                finally:
                    if span is not None:
                        span.set_attribute("http.response.status_code", seen.status)
        finally:
            if seen.status >= 400:
                self.metrics.failed.labels(str(seen.status)).inc()
            said = {"method": method, "path": path, "status": seen.status}
            said |= {"seconds": round(time.monotonic() - began, 6), "tenant": scope["state"].get("tenant", "")[:8]}
            if seen.body:
                said["body"] = seen.body.decode(errors="replace")
            quiet = seen.status < 400 and path in QUIET
            log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=said)
            REQUEST_ID.reset(token)


_CONTEXT = (b"traceparent", b"tracestate")
