"""Which lines are learned from at which step: epochs over shuffled documents, the same at every start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from outthink.learn.data import StepData
from outthink.learn.rewards.documents import RewardDocument, pack_rewards

# Documents for somewhat less than the tokens of a step: with the gaps at row ends they fill its micro-batches.
_FILL = 0.94


class Plan:
    """The data of every step of a run over ``documents``; a pure function of its arguments, see `pack_rewards`."""

    def __init__(
        self,
        documents: Sequence[RewardDocument],
        seed: int,
        epochs: int,
        batch_tokens: int,
        widths: Sequence[int],
        micro_tokens: int,
        even: bool = False,
    ) -> None:
        self._documents, self._widths, self._micro_tokens, self._even = documents, widths, micro_tokens, even
        self._members = [part for epoch in range(epochs) for part in self._epoch(seed, epoch, batch_tokens)]

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._members)

    def step(self, step: int) -> StepData:
        """The data of one step; a target weighs 1 for each label."""
        documents = [self._documents[index] for index in self._members[step]]
        packed = pack_rewards(documents, self._widths, self._micro_tokens, even=self._even)
        batches = tuple(rows for rows, _ in packed)
        tokens, marks = sum(len(d.ids) for d in documents), sum(len(d.marks) for d in documents)
        return StepData(step, batches, tokens, float(marks), len(documents), 0)

    def _epoch(self, seed: int, epoch: int, batch_tokens: int) -> Iterator[list[int]]:
        """The documents of an epoch in parts of about ``batch_tokens`` tokens; the last part may be smaller."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self._documents)).tolist()
        part, tokens = [], 0
        for index in order:
            part.append(index)
            tokens += len(self._documents[index].ids)
            if tokens >= _FILL * batch_tokens:
                yield part
                part, tokens = [], 0
        if part:
            yield part
