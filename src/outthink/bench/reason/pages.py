"""How many KV pages a piece of work holds at its peak, seen from the engine's own steps."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from outthink.engine.engine import Engine
from outthink.kernels.step import Int32s, StepBatch


class PageMeter:
    """The backend of an engine, and a look at its leases in every step, when the pages of that step are reserved.

    Work is told apart by its namespace in the prefix tree; its peak is the largest number of distinct pages that its
    open branches held. Pages of closed branches that merely stay cached do not count. Puts itself in the place of
    ``engine.backend``.
    """

    def __init__(self, engine: Engine) -> None:
        self._backend, self._scheduler = engine.backend, engine.scheduler
        self._peaks: dict[str, int] = defaultdict(int)
        self.name, self.page_size, self.num_pages = (
            engine.backend.name,
            engine.backend.page_size,
            engine.backend.num_pages,
        )
        engine.backend = self

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """See `Backend.run`."""
        held: dict[str, set[int]] = defaultdict(set)
        for sequence in (*self._scheduler.running, *self._scheduler.resting):
            if sequence.lease is not None:
                held[sequence.namespace].update(sequence.lease.pages)
        for namespace, pages in held.items():
            self._peaks[namespace] = max(self._peaks[namespace], len(pages))
        return self._backend.run(batch)

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """See `Backend.copy_pages`."""
        self._backend.copy_pages(source, target)

    def take(self, namespace: str) -> int:
        """The peak of ``namespace``, which is then forgotten; 0 where it was never seen."""
        return self._peaks.pop(namespace, 0)
