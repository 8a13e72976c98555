"""How a server is set up, and what it refuses."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path

from outthink.core.errors import UserError


@dataclass(frozen=True)
class ServeConfig:
    """Where a server listens, whom it lets in, and the most that one request may ask for.

    ``api_keys``: none means that whoever reaches the port may use it, which is refused off loopback. ``max_running``
    requests are worked on at once and ``max_waiting`` wait; the next is answered 429. ``max_tokens`` bounds what one
    request may have computed over all its branches (positions), ``max_branches`` how many it may have at once,
    ``deadline`` its seconds. ``database`` is an SQLAlchemy URL for jobs. ``drain`` is how many seconds requests in
    flight are given when the server is told to stop. ``max_jobs`` solves and ``max_rows`` rows of batches are worked on
    at once, and as many solves as ``max_waiting`` wait (of several tenants more: see `outthink.serve.shares`). An
    uploaded file has at most ``max_file`` bytes, and one client's files at most ``max_stored`` together.
    ``log_prompts``: the log holds what clients sent, which it does not otherwise.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    served_name: str | None = None
    max_running: int = 64
    max_waiting: int = 512
    max_body: int = 4 << 20
    max_tokens: int = 1 << 18
    max_branches: int = 512
    deadline: float = 600.0
    database: str = "sqlite://"
    max_jobs: int = 4
    max_rows: int = 16
    max_file: int = 64 << 20
    max_stored: int = 1 << 30
    drain: float = 30.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if not self.loopback and not self.api_keys:
            raise UserError(
                f"Refusing to listen on {self.host!r} without an API key: anyone who reaches it could use it. Set "
                "OUTTHINK_API_KEY, or listen on 127.0.0.1."
            )
        if any(len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise UserError("An API key needs at least 8 printable ASCII characters, none of them a space.")
        for name in ("max_running", "max_body", "max_tokens", "max_branches", "max_jobs", "max_rows", "max_file"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r} must be at least 1.")
        for name in ("deadline", "drain", "max_waiting"):
            if not 0 <= getattr(self, name) < math.inf or (name == "deadline" and not self.deadline):
                raise UserError(f"{name}={getattr(self, name)!r} must be a finite number above 0.")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port={self.port!r} is no port: it must be 0 (any that is free) to 65535.")

    @property
    def max_held(self) -> int:
        """The most bytes that the bodies of all requests in flight may have together."""
        return self.max_running * self.max_body + 2 * self.max_file

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def default_state_directory() -> Path:
    """Where jobs are kept by default: ``~/.local/state/outthink``."""
    return Path.home() / ".local" / "state" / "outthink"
