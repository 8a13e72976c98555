"""From the scheduler's decisions to the arrays of one step."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from outthink.engine.sequence import Sequence
from outthink.kernels.step import Int32s, StepBatch
from outthink.scheduling import Slice, pending


def pack(slices: Seq[Slice[Sequence]]) -> tuple[StepBatch, list[int]]:
    """The batch of these slices, and for each slice the index of its first row of logits.

    A slice that completes its sequence wants the logits of its last position; one that is being read wants those of
    all its positions; other slices want none.
    """
    tokens, positions, logit_rows, first_rows = [], [], [], []
    starts = np.zeros(len(slices) + 1, dtype=np.int32)
    width = max(len(_lease(piece).pages) for piece in slices)
    tables = np.zeros((len(slices), width), dtype=np.int32)
    for s, piece in enumerate(slices):
        sequence, end = piece.sequence, piece.start + piece.count
        starts[s + 1] = starts[s] + piece.count
        tokens.extend(sequence.tokens[piece.start : end])
        positions.extend(range(piece.start, end))
        pages = _lease(piece).pages
        tables[s, : len(pages)] = pages
        first_rows.append(len(logit_rows))
        if sequence.reading is not None:
            logit_rows.extend(range(starts[s], starts[s + 1]))
        elif piece.count == pending(sequence):
            logit_rows.append(starts[s + 1] - 1)
    batch = StepBatch(
        tokens=_array(tokens),
        positions=_array(positions),
        query_starts=starts,
        context_lengths=_array([piece.start + piece.count for piece in slices]),
        page_tables=tables,
        logit_rows=_array(logit_rows),
    )
    return batch, first_rows


def page_copies(slices: Seq[Slice[Sequence]]) -> tuple[Int32s, Int32s] | None:
    """The sources and targets of all page copies that must come before the step; None where there are none."""
    copies = [copy for piece in slices for copy in piece.copies]
    if not copies:
        return None
    pairs = np.array(copies, dtype=np.int32)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def _lease(piece: Slice[Sequence]):
    assert piece.sequence.lease is not None
    return piece.sequence.lease


def _array(values: list[int]) -> Int32s:
    return np.array(values, dtype=np.int32)
