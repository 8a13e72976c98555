"""What a strategy is asked: a prompt, how to read an answer out of a text, and perhaps how to check one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Raw text, token ids, or chat messages, which the model's own template turns into text."""


class Line(Protocol):
    """What is read of a branch to find its answer."""

    @property
    def finish(self) -> str | None: ...

    @property
    def full_text(self) -> str: ...


@dataclass(frozen=True)
class Question:
    """``prompt`` is what the model reads. ``parse`` takes the text of a finished line to a canonical answer, or None
    where there is none. ``check`` says whether an answer is right, where that can be known; ``problem`` is whatever it
    came from.
    """

    prompt: Prompt
    parse: Callable[[str], str | None]
    check: Callable[[str], bool] | None = None
    problem: Any = None

    def answer_of(self, line: Line) -> str | None:
        """The answer that a line reached. Of one that was cut, only its whole lines of text are read."""
        text = line.full_text
        return self.parse(text if line.finish == "stop" else text[: text.rfind("\n") + 1])


_MARKED = re.compile(
    r"^[ \t*_]*(?:(?:final[ \t]+)?answer[*_]*[ \t]*:[*_]*|####)[ \t]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE
)


def parse_answer(text: str) -> str | None:
    """The last answer that ``text`` marks as one: a line ``answer: X`` or ``#### X``, or ``\\boxed{X}``.

    Marks of emphasis around it are dropped.
    """
    found = [(m.start(), m[1]) for m in _MARKED.finditer(text)]
    if (boxed := text.rfind("\\boxed{")) >= 0 and (inside := _braced(text, boxed + len("\\boxed{"))) is not None:
        found.append((boxed, inside))
    return (max(found)[1].strip(" \t\r*_$") or None) if found else None


def _braced(text: str, start: int) -> str | None:
    """What stands between ``start`` and the brace that closes the one before it; None where none does."""
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start:at]
    return None
