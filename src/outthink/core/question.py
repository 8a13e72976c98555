"""What a strategy is asked: a prompt, how to read an answer out of a text, and perhaps how to check one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """``prompt`` is what the model reads, already in its chat format. ``parse`` takes a finished text to a canonical
    answer, or None where there is none. ``check`` says whether an answer is right, where that can be known; ``problem``
    is whatever it came from.
    """

    prompt: str
    parse: Callable[[str], str | None]
    check: Callable[[str], bool] | None = None
    problem: Any = None
