"""How many KV pages a piece of work holds at its peak, seen from the engine's own steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from outthink.engine.engine import Engine


class PageMeter:
    """Looks at the leases of engines in every step, when the pages of that step are held.

    Work is told apart by its namespace in the prefix tree; its peak in an engine is the largest number of distinct
    pages that its open branches held there. Pages of closed branches that merely stay cached do not count.
    """

    def __init__(self, *engines: Engine) -> None:
        self._peaks = [self._watch(engine) for engine in engines]

    def take(self, namespace: str) -> int:
        """The sum over the engines of the peaks of ``namespace``, which are then forgotten; 0 where it was not seen."""
        return sum(peaks.pop(namespace, 0) for peaks in self._peaks)

    def _watch(self, engine: Engine) -> dict[str, int]:
        scheduler, peaks = engine.scheduler, dict[str, int]()

        def look() -> None:
            held: dict[str, set[int]] = defaultdict(set)
            for sequence in (*scheduler.running, *scheduler.resting):
                if sequence.lease is not None:
                    held[sequence.namespace].update(sequence.lease.pages)
            for namespace, pages in held.items():
                peaks[namespace] = max(peaks.get(namespace, 0), len(pages))

        engine.observers.append(look)
        return peaks


def engines_of(models: Iterable[object]) -> list[Engine]:
    """The engines of those that run in ours, each once."""
    found = (getattr(model, "engine", None) for model in models)
    return list({id(engine): engine for engine in found if isinstance(engine, Engine)}.values())
