"""The tree of thought as a record: what was tried, what it was worth, why it ended. It holds no KV and no model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Thought:
    """One branch of the tree: the text that it added to its parent.

    ``log_prob`` is the sum of the model's own log-probabilities of ``tokens`` (nats). ``finish`` says why it stopped:
    ``stop``, ``length``, ``budget`` or ``cancelled``; None for a root, for given text and while it grows. Strategies
    write ``value``, ``weight``, ``visits``, ``answer`` and ``fate`` (why it died or won).
    """

    text: str = ""
    tokens: int = 0
    log_prob: float = 0.0
    finish: str | None = None
    value: float | None = None
    weight: float | None = None
    visits: int | None = None
    answer: str | None = None
    fate: str | None = None
    parent: Thought | None = field(default=None, repr=False)
    children: list[Thought] = field(default_factory=list, repr=False)

    def child(self) -> Thought:
        """A new thought under this one."""
        thought = Thought(parent=self)
        self.children.append(thought)
        return thought

    def move(self, parent: Thought | None) -> None:
        """Make this thought, with all below it, a child of ``parent`` instead; with None, a root of its own."""
        if self.parent is not parent:
            if self.parent is not None:
                self.parent.children.remove(self)
            if parent is not None:
                parent.children.append(self)
            self.parent = parent

    def walk(self) -> Iterator[Thought]:
        """This thought and all below it, parents before children."""
        stack: list[Thought] = [self]
        while stack:
            thought = stack.pop()
            yield thought
            stack.extend(reversed(thought.children))

    def line(self) -> list[Thought]:
        """The thoughts from the root down to this one."""
        line: list[Thought] = [self]
        while (parent := line[-1].parent) is not None:
            line.append(parent)
        return line[::-1]

    def to_json(self) -> dict[str, Any]:
        """Nodes in the order of `walk`, each with its id and its parent's id; plain JSON values, infinities as None."""
        nodes, ids = [], {}
        for number, thought in enumerate(self.walk()):
            ids[thought] = number
            nodes.append(
                {
                    "id": number,
                    "parent": None if thought is self or thought.parent is None else ids[thought.parent],
                    **{k: _plain(v) for k, v in vars(thought).items() if k not in ("parent", "children")},
                }
            )
        return {"nodes": nodes}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
