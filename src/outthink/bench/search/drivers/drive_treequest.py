"""treequest's AB-MCTS-A over a generator that costs nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "engine" / "drivers")]

import treequest  # pyright: ignore[reportMissingImports]
from protocol import serve
from scorer import score


class TreeQuest:
    """See `grow`."""

    def grow(self, nodes: int, in_place: bool, seed: int) -> dict[str, Any]:
        """Seconds of a tree of ``nodes`` nodes. ``in_place``: without the copy of the tree that each step makes."""
        made = iter(range(nodes))

        def generate(parent: str | None) -> tuple[str, float]:
            text = f"{parent or seed}/{next(made)}"[-64:]
            return text, score(text)

        algorithm = treequest.ABMCTSA()
        state = algorithm.init_tree()
        start = perf_counter()
        for _ in range(nodes):
            state = algorithm.step(state, {"write": generate}, inplace=in_place)
        seconds = perf_counter() - start
        return {"seconds": seconds, "nodes": len(state.tree.get_state_score_pairs())}


def load(asked: dict[str, Any]) -> TreeQuest:
    """The runner of a ``load`` request."""
    return TreeQuest()


if __name__ == "__main__":
    serve(load, ("treequest",))
