"""Positions of a tree of thought: how many must be computed, and whether an engine computed each of them once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from outthink.core.errors import OutthinkError
from outthink.core.thought import Thought
from outthink.engine.billing import Stats
from outthink.lm.model import Model


class ComputedTwiceError(OutthinkError):
    """An engine computed other positions than those of the tree, each once."""


@dataclass(frozen=True)
class Work:
    """What an engine did: positions that it computed, those of them that it had computed before, tokens drawn."""

    positions: int
    recomputed: int
    drawn: int

    @classmethod
    def between(cls, before: Stats, after: Stats) -> Work:
        """What was done from ``before`` to ``after``."""
        return cls(after.positions - before.positions, after.recomputed - before.recomputed, after.drawn - before.drawn)


def stats_of(model: Model) -> Stats:
    """The counters of a model's engine, read between two of its steps."""
    return cast(Stats, model.thread.call(lambda: replace(model.engine.stats)))


def tree_positions(tree: Thought, prompt: int) -> int:
    """Positions that a tree below one prompt of ``prompt`` tokens takes, each once.

    The last token of a thought needs no position unless something was written after it.
    """
    thoughts = [thought for root in tree.children for thought in root.walk() if thought is not root]
    return prompt + sum(max(0, thought.tokens - (not thought.children)) for thought in thoughts)


def check_each_once(work: Work, tree: Thought, prompt: int) -> int:
    """The positions of the tree. Raises ComputedTwiceError unless ``work`` is just them."""
    needed = tree_positions(tree, prompt)
    if work.recomputed or work.positions != needed:
        raise ComputedTwiceError(
            f"The tree has {needed:,} positions, and the engine computed {work.positions:,}, {work.recomputed:,} of "
            "them again."
        )
    return needed
