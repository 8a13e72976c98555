"""The record that crosses from the engine to whatever computes a step. It knows no torch.

One step computes a flat batch of positions of several sequences: prefill chunks and decodes mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Laws:
    """The distributions that R tokens are drawn from, see `Sampling`, and the keys of their random numbers.

    ``keys`` [R] uint64: of seed and branch; ``temperature``, ``top_p``, ``min_p`` [R] float64; ``top_k`` [R] int32,
    0 for all.
    """

    keys: NDArray[np.uint64]
    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]
    top_k: Int32s


@dataclass(frozen=True)
class Stops:
    """Where the rows of one group stop: after one of ``tokens``, or where the text comes to hold one of ``strings``."""

    tokens: tuple[int, ...]
    strings: tuple[bytes, ...]


@dataclass(frozen=True)
class DecodeBatch:
    """S sequences that are to draw tokens, all but one of whose positions have KV. Arrays are contiguous.

    ``tokens``, ``positions`` [S] int32: the token that has none, and where it is. ``page_tables`` [S, P] as in
    `StepBatch`, with room for ``limits`` [S] int32 further positions, the most tokens that each may draw. ``groups``
    [S] int32: indices into ``stops``. ``tails``: for each, as much of its text as may be the beginning of a stop.
    """

    tokens: Int32s
    positions: Int32s
    page_tables: Int32s
    limits: Int32s
    groups: Int32s
    laws: Laws
    stops: Sequence[Stops]
    tails: Sequence[bytes]


@dataclass(frozen=True)
class Decoded:
    """``counts`` [S]: how many tokens each sequence drew; ``tokens`` and log-probabilities under the model and under
    what they were drawn from, [S, steps], valid up to there. ``steps``: how many were computed.
    """

    steps: int
    counts: Int32s
    tokens: Int32s
    log_probs: NDArray[np.float64]
    sample_log_probs: NDArray[np.float64]


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


@runtime_checkable
class Decoder(Protocol):
    """What a backend offers beside `Backend` that can also draw tokens, and go on by itself."""

    num_outputs: int

    def spell(self, pieces: Sequence[bytes]) -> None:
        """Take in what each token spells, once, before the first ``decode`` with stop strings."""
        ...

    def sample(
        self, logits: NDArray[np.float32], positions: Int32s, laws: Laws
    ) -> tuple[Int32s, NDArray[np.float64], NDArray[np.float64]]:
        """A token for each row of finite logits [R, outputs], at ``positions`` [R], as in `Decoded`."""
        ...

    def decode(self, batch: DecodeBatch, steps: int, seconds: float, interrupt: Int32s) -> Decoded:
        """Up to ``steps`` steps of decoding, the tokens of each drawn as `sample` would.

        A sequence rests after its limit or a stop. No step is begun after ``seconds``, once ``interrupt`` [1] is not 0,
        or once a whole group rests; the first is in any case. A step with logits that are not finite is left out, and
        is the last.
        """
        ...
