"""Documents into rows: several to a row, each seeing only itself, so that hardly any position is padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outthink.learn.tokenizer import PAD_ID


@dataclass(frozen=True)
class Document:
    """Token ids of a question with its solution; the first ``question_length`` of them are the question."""

    ids: Sequence[int]
    question_length: int


@dataclass(frozen=True)
class PackedRows:
    """R rows of W positions, all arrays [R, W].

    ``tokens``, ``targets`` (the token after each position), ``positions`` (from 0 in each document) and ``segments``
    (which document of the row, 0 for padding) are int64; ``weights`` float32, 0 where nothing is to be learned.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]
    weights: NDArray[np.float32]


def plan_rows(documents: Iterable[Document], width: int) -> list[list[Document]]:
    """Documents into few rows of ``width``: the longest first, each into the first row with room for it.

    Raises ValueError for a document that is longer than a row.
    """
    rows: list[list[Document]] = []
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
    """Documents into micro-batches of ``micro_tokens`` positions, each in the narrowest of ``widths`` that holds it.

    Every micro-batch of a width has the same shape. Rows that do not fill one therefore move on to the next width in
    use; only the widest is completed with empty rows.
    """
    by_width: dict[int, list[Document]] = {}
    for document in documents:
        by_width.setdefault(next(w for w in widths if len(document.ids) <= w), []).append(document)
    batches: list[PackedRows] = []
    waiting: list[Document] = []
    used = sorted(by_width)
    for width in used:
        count = micro_tokens // width
        rows = plan_rows([*waiting, *by_width[width]], width)
        whole = len(rows) if width == used[-1] else len(rows) // count * count
        waiting = [document for row in rows[whole:] for document in row]
        for start in range(0, whole, count):
            batches.append(fill_rows(rows[start : min(start + count, whole)], count, width, question_weight))
    return tuple(batches)


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
