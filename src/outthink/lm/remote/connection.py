"""How a server is reached, and how much patience it gets."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from outthink.core.errors import UserError
from outthink.lm.remote.errors import TransientError


@dataclass(frozen=True)
class Connection:
    """An OpenAI-compatible server and how it is treated.

    ``base_url`` usually ends in ``/v1``; ``model`` is the name that it serves (None: the only one). ``concurrency``
    bounds requests in flight. ``read_timeout_s`` bounds the wait for the first byte and between chunks,
    ``total_timeout_s`` a whole response. A request that fails for want of luck is sent up to ``retries`` times more,
    after ``backoff_s`` seconds, doubled each time up to ``max_backoff_s``, half of it at random; a server's Retry-After
    goes before that. ``max_bytes`` bounds one line of a stream and one whole JSON response.

    Raises UserError for values out of range.
    """

    base_url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 120.0
    total_timeout_s: float = 1800.0
    retries: int = 5
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    max_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"base_url={self.base_url!r} is no http URL: write one like http://127.0.0.1:8000/v1.")
        if parts.username or parts.password:
            raise UserError("base_url must hold no user name or password; give the key as api_key.")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        for name, least in (("concurrency", 1), ("retries", 0), ("max_bytes", 1 << 10)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name}={value!r} must be a whole number of at least {least}.")
        for name in ("connect_timeout_s", "read_timeout_s", "total_timeout_s", "backoff_s", "max_backoff_s"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name}={value!r} must be a number of seconds above 0.")

    def url(self, path: str) -> str:
        """The address of ``path``; one that starts with // is taken from the server's root, above ``/v1``."""
        if path.startswith("//"):
            return self.base_url.removesuffix("/v1") + path[1:]
        return self.base_url + path


class Patience:
    """The retries of one piece of work."""

    def __init__(self, connection: Connection, rng: random.Random) -> None:
        self._connection, self._rng, self._failures = connection, rng, 0

    def wait_s(self, error: TransientError) -> float:
        """How many seconds to wait before the next attempt; raises ``error`` where there is to be none."""
        connection = self._connection
        if self._failures == connection.retries:
            if connection.retries:
                error.args = (f"{error} Gave up after {connection.retries + 1} attempts.",)
            raise error
        pause = min(connection.max_backoff_s, connection.backoff_s * 2.0**self._failures)
        self._failures += 1
        asked = error.retry_after_s
        if asked is not None and asked > connection.total_timeout_s:
            raise error
        return max(pause * self._rng.uniform(0.5, 1.0), asked or 0.0)
