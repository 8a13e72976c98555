"""The record that crosses from the engine to whatever computes a step. It knows no torch.

One step computes a flat batch of positions of several sequences: prefill chunks and decodes mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Int32s = NDArray[np.int32]


@dataclass(frozen=True)
class StepBatch:
    """T positions of S sequences, R of which need logits. All arrays are int32 and contiguous.

    ``tokens``, ``positions`` [T]: id and absolute position; those of one sequence are adjacent and consecutive.
    ``query_starts`` [S + 1]: sequence s computes flat rows [query_starts[s], query_starts[s+1]).
    ``context_lengths`` [S]: positions of s that have KV once this step is done (the last row's position + 1).
    ``page_tables`` [S, P]: page ids of s in order, padded with 0; position p lives in page ``p // page_size``, slot
    ``p % page_size``. ``logit_rows`` [R]: the flat rows whose logits are wanted, in the order of the result.
    """

    tokens: Int32s
    positions: Int32s
    query_starts: Int32s
    context_lengths: Int32s
    page_tables: Int32s
    logit_rows: Int32s


class Backend(Protocol):
    """Computes steps over its own paged KV memory. Not thread-safe: one stepping thread uses it."""

    name: str
    page_size: int
    num_pages: int

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """Write the KV of every position of the batch into its page, and return logits [R, outputs], float32."""
        ...

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """Copy whole pages, all layers: ``target[i]`` becomes a copy of ``source[i]``."""
        ...
