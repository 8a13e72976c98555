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


_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKED = re.compile(r"^\s*(?:final answer|answer|####)\s*:?\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def parse_answer(text: str) -> str | None:
    """The last answer that ``text`` marks as one: ``\\boxed{X}``, a line ``answer: X`` or a line ``#### X``."""
    found = [(m.start(), m[1].strip()) for pattern in (_BOXED, _MARKED) for m in pattern.finditer(text)]
    return max(found)[1] if found else None
