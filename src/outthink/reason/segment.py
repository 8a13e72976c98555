"""Where a step of reasoning ends, and when a line of steps is whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

from outthink.core.errors import SamplingError
from outthink.core.question import Question
from outthink.core.sampling import Until
from outthink.lm.protocol import Branch

_NAMED = {"newline": ("\n",), "paragraph": ("\n\n",), "sentence": (". ", "! ", "? ", "\n")}


@dataclass(frozen=True)
class Segmenter:
    """A step ends at the first of the strings ``stop``, at one of ``stop_tokens``, or after ``max_tokens`` tokens.

    Raises SamplingError where none of the three is given, or one is out of range.
    """

    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not (self.stop or self.stop_tokens or self.max_tokens):
            raise SamplingError(
                "A Segmenter needs a stop string, a stop token or max_tokens: steps must end somewhere."
            )
        self.until()

    @classmethod
    def of(cls, steps: str | Segmenter) -> Segmenter:
        """The segmenter called ``steps``: newline, paragraph (a blank line), sentence, tokens:N or tag:TEXT.

        Raises SamplingError for any other name.
        """
        if isinstance(steps, Segmenter):
            return steps
        kind, _, value = steps.partition(":")
        if kind == "tokens" and value.isdigit():
            return cls(max_tokens=int(value))
        if kind == "tag" and value:
            return cls(stop=(value,))
        if steps in _NAMED:
            return cls(stop=_NAMED[steps])
        raise SamplingError(
            f"steps={steps!r} names no way to cut a text into steps: use {', '.join(_NAMED)}, tokens:32 or tag:</step>."
        )

    def until(self, most: float = math.inf) -> Until:
        """Where an extension by one step of at most ``most`` tokens, at least one, stops."""
        longest = min(most, math.inf if self.max_tokens is None else self.max_tokens)
        return Until(None if longest == math.inf else int(longest), self.stop, self.stop_tokens)

    def is_whole(self, question: Question, line: Branch, until: Until) -> bool:
        """Whether nothing can follow a line that was extended by ``until``: it ended, gave its answer in a finished
        line of text, or filled the context.
        """
        filled = line.finish == "length" and (until.max_tokens is None or len(line.tokens) < until.max_tokens)
        return line.ended or filled or answer_in_lines(question, line) is not None


def answer_in_lines(question: Question, line: Branch) -> str | None:
    """The answer in the finished lines of text, however the branch stopped: a step may end in the middle of one."""
    text = line.full_text
    return question.parse(text[: text.rfind("\n") + 1])
