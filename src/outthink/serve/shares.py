"""How many pieces of lasting work each tenant may have unfinished, so that none keeps the others out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from outthink.serve.failures import ApiError


@dataclass
class Shares:
    """Counts the unfinished work of each tenant, of which all may have ``most`` together.

    Once that much is there, a tenant may add to its own only while it has less than an equal part. What was taken on is
    never thrown out for another's sake, so that for T tenants there are at most 1 + 1/2 + ... + 1/T times ``most``.
    ``name``: what is counted, as clients are told of it.
    """

    name: str
    most: int
    held: Counter[str] = field(default_factory=Counter)

    def check(self, tenant: str, retry_after: int) -> None:
        """Raise ApiError 429, which says to come again in ``retry_after`` seconds, where ``tenant`` may add nothing."""
        part = max(1, self.most // len({*self.held, tenant}))
        if self.held.total() >= self.most and self.held[tenant] >= part:
            raise ApiError(
                429,
                f"{self.held[tenant]} {self.name} of yours are unfinished; try again later.",
                "rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(retry_after)},
            )

    @contextmanager
    def adding(self, tenant: str, retry_after: int) -> Iterator[None]:
        """Count one more while the block runs: what comes of it must be `add`ed within. Raises as `check` does."""
        self.check(tenant, retry_after)
        self.add(tenant)
        try:
            yield
        finally:
            self.remove(tenant)

    def add(self, tenant: str) -> None:
        """Count one more."""
        self.held[tenant] += 1

    def remove(self, tenant: str) -> None:
        """Count one less."""
        self.held -= Counter({tenant: 1})  # keeps only what is above 0
