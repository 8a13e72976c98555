"""Where the tokens went: each thought's tokens once, under the best thing that came of it."""

from __future__ import annotations

from outthink.core.thought import Thought
from outthink.show.merge import fate_of

WINNER, AGREEING, OTHER = "the winning line", "lines that agree with it", "other branches"


def spending(tree: Thought, winner: Thought | None) -> list[tuple[str, int]]:
    """Tokens written, by fate, in the order of worth; fates on which nothing was spent are left out.

    A thought that several lines share counts once: for the winning line if that goes through it, else for the lines
    that agree, else for the first fate below it.
    """
    thoughts = list(tree.walk())
    winning = set(winner.line()) if winner is not None else set()
    kinds: dict[Thought, str] = {}
    order = [WINNER, AGREEING]
    for thought in reversed(thoughts):  # children before parents
        below = [kinds[child] for child in thought.children]
        kind = WINNER if thought in winning else min(below, key=order.index) if below else _kind(thought)
        if kind not in order:
            order.append(kind)
        kinds[thought] = kind
    totals = dict.fromkeys(order, 0)
    for thought in thoughts:
        totals[kinds[thought]] += thought.tokens
    ranked = sorted(totals.items(), key=lambda item: (*_rank(item[0]), -item[1]))
    return [(kind, tokens) for kind, tokens in ranked if tokens]


def _kind(thought: Thought) -> str:
    return AGREEING if thought.fate == "chosen" else fate_of(thought) or OTHER


def _rank(kind: str) -> tuple[int]:
    return ((WINNER, AGREEING).index(kind) if kind in (WINNER, AGREEING) else 2,)
