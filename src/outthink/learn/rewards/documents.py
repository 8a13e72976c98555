"""Labelled lines as training documents: which tokens are read, and what their label is.

A process reward is read after the last token of each step, which is the line feed alone, and after the end token of a
line that the model ended. No token of our tokenizer reaches across a line feed, so that the tokens of a prefix up to a
line feed are the first tokens of every longer text: what is read while a line grows is what was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers

from outthink.core.errors import CheckpointError
from outthink.learn.packing import Document, PackedRows, fill_rows, plan_batches
from outthink.learn.rewards.records import LabelledLine, LabelledProblem
from outthink.learn.tokenizer import ASSISTANT_ID, END_ID, USER_ID
from outthink.tasks.problem import parse_answer


@dataclass(frozen=True)
class RewardDocument(Document):
    """A question with a line; ``marks`` are pairs (position, label in [0, 1]) where the reward is read."""

    marks: tuple[tuple[int, float], ...]


class Encoder:
    """Makes documents of the text of one tokenizer.json in our chat format. Remembers nothing but that."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def question(self, prompt: str) -> list[int]:
        """The token ids of a question, up to where the solution begins."""
        return [USER_ID, *self._tokenizer.encode(prompt, add_special_tokens=False).ids, ASSISTANT_ID]

    def read_at(self, question: Sequence[int], line: LabelledLine, ends: Iterable[int]) -> tuple[list[int], list[int]]:
        """The token ids of a question with ``line``, and the positions of the tokens that end at the characters
        ``ends`` of its text.

        Raises CheckpointError where a token reaches across one of them: such a tokenizer cannot be read step by step.
        """
        encoded = self._tokenizer.encode(line.text, add_special_tokens=False)
        ending_at = {end: place for place, (_, end) in enumerate(encoded.offsets)}
        if crossed := [end for end in ends if end not in ending_at]:
            raise CheckpointError(
                f"No token ends after character {crossed[0]} of {line.text!r}: this tokenizer joins a line feed with "
                "what comes after it, so that steps cannot be read one by one."
            )
        ids = [*question, *encoded.ids, *([END_ID] if line.ended else [])]
        return ids, [len(question) + ending_at[end] for end in ends]

    def process(self, question: Sequence[int], line: LabelledLine) -> RewardDocument:
        """The document of a process reward: labels of the steps, and of the whole line where it was ended."""
        labels = {step.end: step.value for step in line.steps}
        if not line.ended and line.text.endswith("\n") and parse_answer(line.text) is not None:
            labels[len(line.text)] = float(line.right)  # over with the line of its answer
        ids, positions = self.read_at(question, line, list(labels))
        marks = list(zip(positions, labels.values(), strict=True))
        if line.ended:
            marks.append((len(ids) - 1, float(line.right)))
        return RewardDocument(ids, len(question), tuple(marks))

    def outcome(self, question: Sequence[int], line: LabelledLine) -> RewardDocument:
        """The document of an outcome reward: one label, at the end of a line that the model ended."""
        ids, _ = self.read_at(question, line, ())
        return RewardDocument(ids, len(question), ((len(ids) - 1, float(line.right)),) if line.ended else ())


def documents_of(problems: Iterable[LabelledProblem], encoder: Encoder, kind: str) -> list[RewardDocument]:
    """The documents of a ``kind`` of reward that have at least one label."""
    documents = []
    for found in problems:
        question = encoder.question(found.problem.prompt)
        make = encoder.process if kind == "process" else encoder.outcome
        documents += [make(question, line) for line in found.lines]
    return [document for document in documents if document.marks]


def pack_rewards(
    documents: Iterable[RewardDocument], widths: Sequence[int], micro_tokens: int, *, even: bool = False
) -> list[tuple[PackedRows, list[list[RewardDocument]]]]:
    """Documents into micro-batches whose targets are the labels, each label of weight 1; with the rows they lie in.

    ``even``: micro-batches of one width have the same number of rows, some of them empty, as compiled code needs it.
    """
    planned = plan_batches(documents, widths, micro_tokens)
    return [(_fill(rows, count if even else len(rows), width), rows) for rows, count, width in planned]


def _fill(rows: list[list[RewardDocument]], count: int, width: int) -> PackedRows:
    packed = fill_rows(rows, count, width, question_weight=0.0)
    targets, weights = np.zeros((count, width), np.float32), np.zeros((count, width), np.float32)
    for row, members in enumerate(rows):
        for start, document in zip(starts(members), members, strict=True):
            for position, label in document.marks:
                targets[row, start + position] = label
                weights[row, start + position] = 1.0
    return replace(packed, targets=targets, weights=weights)


def starts(members: Sequence[Document]) -> list[int]:
    """Where each document of a row begins."""
    return np.cumsum([0, *(len(document.ids) for document in members[:-1])]).tolist() if members else []
