"""The step oracle of a family that can list its accepted next lines.

A family states its solver as a function from a state to the lines that may come next, each with the state it leads to.
Only lines from which a right answer can still be reached are listed, so a partial solution is extendable exactly when
its finished lines are listed one after another and its unfinished line is the beginning of a listed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

S = TypeVar("S")


def follows(partial: str, state: S, moves: Callable[[S], Iterable[tuple[str, S | None]]]) -> bool:
    """Whether ``partial``, cut at any character, is the beginning of an accepted solution.

    ``moves(state)`` gives pairs (line, next state); the next state is None after the answer line, which only white
    space may follow. No two pairs of one state have the same line.
    """
    *finished, open_line = partial.split("\n")
    for position, line in enumerate(finished):
        listed = dict(moves(state))
        if line not in listed:
            return False
        following = listed[line]
        if following is None:
            return not "".join((*finished[position + 1 :], open_line)).strip()
        state = following
    return any(text.startswith(open_line) for text, _ in moves(state))


def begins(partial: str, solution: str) -> bool:
    """The oracle of a problem that has exactly one accepted solution: whether ``partial`` is a beginning of it.

    White space may follow the finished solution, from a line break on.
    """
    if solution.startswith(partial):
        return True
    return partial.startswith(solution + "\n") and not partial[len(solution) :].strip()
