"""Documents into rows: several to a row, each seeing only itself, so that hardly any position is padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from outthink.learn.tokenizer import PAD_ID


@dataclass(frozen=True)
class Document:
    """Token ids of a question with its solution; the first ``question_length`` of them are the question."""

    ids: Sequence[int]
    question_length: int


D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class PackedRows:
    """R rows of W positions, all arrays [R, W].

    ``tokens``, ``targets`` (the token after each position), ``positions`` (from 0 in each document) and ``segments``
    (which document of the row, 0 for padding) are int64; ``weights`` float32, 0 where nothing is to be learned. Where
    a reward is learned, ``targets`` are float32, in [0, 1].
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64] | NDArray[np.float32]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]
    weights: NDArray[np.float32]


def plan_rows(documents: Iterable[D], width: int) -> list[list[D]]:
    """Documents into few rows of ``width``: the longest first, each into the first row with room for it.

    Raises ValueError for a document that is longer than a row.
    """
    rows: list[list[D]] = []
    free: list[int] = []
    for document in sorted(documents, key=lambda d: -len(d.ids)):
        length = len(document.ids)
        if length > width:
            raise ValueError(f"a document of {length} tokens does not fit into a row of {width}")
        place = next((i for i, space in enumerate(free) if space >= length), len(rows))
        if place == len(rows):
            rows.append([])
            free.append(width)
        rows[place].append(document)
        free[place] -= length
    return rows


def fill_rows(rows: Sequence[Sequence[Document]], num_rows: int, width: int, question_weight: float) -> PackedRows:
    """``rows`` of documents as arrays of ``num_rows`` rows, the last of them empty where there are fewer.

    A target in the solution weighs 1, one in the question ``question_weight``.
    """
    shape = (num_rows, width)
    packed = PackedRows(
        tokens=np.full(shape, PAD_ID, np.int64),
        targets=np.full(shape, PAD_ID, np.int64),
        positions=np.zeros(shape, np.int64),
        segments=np.zeros(shape, np.int64),
        weights=np.zeros(shape, np.float32),
    )
    for row, members in enumerate(rows):
        _fill(packed, row, members, question_weight)
    return packed


def pack(
    documents: Iterable[Document], widths: Sequence[int], micro_tokens: int, question_weight: float
) -> tuple[PackedRows, ...]:
    """Documents into the micro-batches of `plan_batches`, as arrays; weights as in `fill_rows`."""
    planned = plan_batches(documents, widths, micro_tokens)
    return tuple(fill_rows(rows, count, width, question_weight) for rows, count, width in planned)


def plan_batches(
    documents: Iterable[D], widths: Sequence[int], micro_tokens: int
) -> Iterator[tuple[list[list[D]], int, int]]:
    """Documents into micro-batches of ``micro_tokens`` positions, each in the narrowest of ``widths`` that holds it.

    A micro-batch is (rows, number of rows, width). Every one of a width has the same shape. Rows that do not fill one
    therefore move on to the next width in use; only the widest is completed with empty rows, up to its number of rows.
    """
    by_width: dict[int, list[D]] = {}
    for document in documents:
        by_width.setdefault(next(w for w in widths if len(document.ids) <= w), []).append(document)
    waiting: list[D] = []
    used = sorted(by_width)
    for width in used:
        count = micro_tokens // width
        rows = plan_rows([*waiting, *by_width[width]], width)
        whole = len(rows) if width == used[-1] else len(rows) // count * count
        waiting = [document for row in rows[whole:] for document in row]
        for start in range(0, whole, count):
            yield rows[start : min(start + count, whole)], count, width


def _fill(packed: PackedRows, row: int, documents: Sequence[Document], question_weight: float) -> None:
    start = 0
    for segment, document in enumerate(documents, 1):
        length = len(document.ids)
        here = slice(start, start + length)
        packed.tokens[row, here] = document.ids
        packed.targets[row, start : start + length - 1] = document.ids[1:]
        packed.positions[row, here] = np.arange(length)
        packed.segments[row, here] = segment
        # Position i learns token i + 1; the last position of a document has no next token.
        first = document.question_length - 1
        packed.weights[row, start : start + first] = question_weight
        packed.weights[row, start + first : start + length - 1] = 1.0
        start += length
