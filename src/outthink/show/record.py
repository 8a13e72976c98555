"""A posterior as JSON that forgets nothing a person is shown, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from outthink.core.posterior import Posterior
from outthink.core.thought import Thought
from outthink.show.merge import fate_of
from outthink.show.words import confidence_words


@dataclass(frozen=True)
class Record:
    """What is shown of a posterior: ``told`` as `record_of` gives it, its ``tree``, and where the ``winner`` ends."""

    told: Mapping[str, Any]
    tree: Thought
    winner: Thought | None


def record_of(posterior: Posterior) -> dict[str, Any]:
    """`Posterior.to_json`, with what it leaves out: what the confidence means (``confidence_means``), the id of the
    node in which the winning line ends (``winner``), and as ``fate`` why a verifier ruled a line out."""
    told = posterior.to_json()
    thoughts = list(posterior.tree.walk())
    for node, thought in zip(told["tree"]["nodes"], thoughts, strict=True):
        node["fate"] = fate_of(thought)
    line = posterior.best_line
    winner = None if line is None or line.thought not in thoughts else thoughts.index(line.thought)
    return {**told, "confidence_means": confidence_words(posterior), "winner": winner}


def read_record(told: Mapping[str, Any]) -> Record:
    """What `record_of` wrote; of one that lacks the additions, what can be read of the rest."""
    thoughts: list[Thought] = []
    nodes: list[dict[str, Any]] = told.get("tree", {}).get("nodes") or [{"parent": None}]
    for node in nodes:
        thought = Thought(**{name: value for name, value in node.items() if name not in ("id", "parent")})
        if node["parent"] is not None:
            thought.move(thoughts[node["parent"]])
        thoughts.append(thought)
    number = told.get("winner")
    return Record(told, thoughts[0], thoughts[number] if number is not None else _heaviest(thoughts, told.get("best")))


def copied(tree: Thought) -> Thought:
    """The tree as it is now, in thoughts of its own: what is drawn of it does not change meanwhile."""
    twins: dict[Thought, Thought] = {}
    for thought in tree.walk():
        twin = copy(thought)
        twin.children, twin.parent = [], None
        if thought is not tree and thought.parent is not None:
            twin.parent = twins[thought.parent]
            twin.parent.children.append(twin)
        twins[thought] = twin
    return twins[tree]


def _heaviest(thoughts: list[Thought], best: str | None) -> Thought | None:
    """The end of a line with the best answer that was given most weight, else the likeliest."""
    ends = [thought for thought in thoughts if best is not None and thought.answer == best and not thought.children]

    def worth(end: Thought) -> tuple[float, float]:
        return -math.inf if end.weight is None else end.weight, math.fsum(part.log_prob for part in end.line())

    return max(ends, key=worth, default=None)
