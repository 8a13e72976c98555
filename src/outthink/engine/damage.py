"""Whose logits are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import EngineError
from outthink.engine.sequence import Sequence, Task
from outthink.scheduling import Slice


def damaged(
    slices: Seq[Slice[Sequence]], logits: NDArray[np.float32], rows: NDArray[np.int32]
) -> Iterator[tuple[Sequence, EngineError]]:
    """The sequences that have logits, of flat rows ``rows``, which are not finite, and what is to be said of each."""
    found = set(rows[~np.isfinite(logits).all(axis=1)].tolist())
    first = 0
    for piece in slices if found else ():
        own = found.intersection(range(first, first + piece.count))
        position = piece.start + min(own, default=first) - first
        first += piece.count
        if own:
            yield (
                piece.sequence,
                EngineError(
                    f"The model computed logits that are not finite at position {position}, after token "
                    f"{piece.sequence.tokens[position]}: its weights are damaged, or their number format is too "
                    "narrow. Only this request was ended."
                ),
            )


def tasks_of(sequence: Sequence) -> list[Task]:
    """The tasks that cannot go on without a sequence."""
    tasks, generation = list(sequence.tasks), sequence.generation
    if sequence.reading is not None:
        tasks.append(sequence.reading)
    elif generation is not None and generation.finish is None:
        tasks.append(generation.extend)
    return tasks
