"""Whole lines as their steps, each of which can be gone on from; how they are written, judged and weighed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.posterior import Posterior
from outthink.core.question import Prompt, Question
from outthink.lm.protocol import Branch
from outthink.reason.holding import Holding
from outthink.reason.population import weigh
from outthink.reason.search.tree import best_of_each
from outthink.reason.segment import Segmenter
from outthink.verify import Verifier


@dataclass(eq=False)
class Trace:
    """A line below ``root``: ``tips[i]`` is the branch after step i, ``scores[i]`` what the verifier says of it."""

    root: Branch
    tips: list[Branch] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def end(self) -> Branch:
        """The branch of the line as far as it goes."""
        return self.tips[-1] if self.tips else self.root

    @property
    def score(self) -> float:
        """The score of the line; -inf where it was not judged."""
        return self.scores[-1] if self.tips and len(self.scores) == len(self.tips) else -math.inf

    @property
    def length(self) -> int:
        """Its tokens after the prompt."""
        return sum(len(tip.tokens) for tip in self.tips)

    def upto(self, steps: int) -> Trace:
        """Its first ``steps`` steps."""
        return Trace(self.root, self.tips[:steps], self.scores[:steps])

    def first_wrong(self, bad: float) -> int | None:
        """The number of the first step with exp(score) below ``bad``; None without one."""
        return next((i for i, score in enumerate(self.scores) if math.exp(min(score, 0.0)) < bad), None)


async def write_on(
    question: Question, start: Trace, segmenter: Segmenter, longest: float, share: float, held: Holding
) -> Trace:
    """``start`` written on to its end: up to ``longest`` tokens after the prompt, ``share`` of them new."""
    line, left = Trace(start.root, [*start.tips], [*start.scores]), min(longest - start.length, share)
    while left >= 1:
        until = segmenter.until(left)
        [tip] = held.add(await line.end.extend(1, until))
        line.tips.append(tip)
        left -= len(tip.tokens)
        if tip.finish == "budget" or segmenter.is_whole(question, tip, until):
            break
    return line


async def judge_all(question: Question, judge: Verifier, lines: Sequence[Trace], ledger: Ledger) -> None:
    """Score what is new in ``lines``, all of it at once."""
    fresh = [tip for line in lines for tip in line.tips[len(line.scores) :]]
    if not fresh:
        return
    scores = iter(await judge.score(question, fresh, ledger))
    for line in lines:
        for tip in line.tips[len(line.scores) :]:
            tip.thought.value = next(scores)
            line.scores.append(tip.thought.value)


def accepted(question: Question, judge: Verifier, line: Trace) -> bool:
    """Whether the line has an answer and the verifier accepts it."""
    return bool(line.tips) and question.answer_of(line.end) is not None and judge.accepts(line.score)


def conclude(question: Question, judge: Verifier, lines: Sequence[Trace], stopped: str) -> Posterior:
    """Each answer weighs as its best line; where lines are accepted, only these; where none passes, all alike."""
    scores = {line.end: line.score for line in lines if line.tips}
    if right := [line.end for line in lines if accepted(question, judge, line)]:
        return replace(weigh(question, right), attempts=len(scores), stopped="verified")
    found = weigh(question, list(scores), lambda end: scores[end])
    if scores and not found.weights:
        stopped = "no line passed the verifier" if stopped == "finished" else stopped
        return replace(weigh(question, list(scores)), stopped=stopped)
    return replace(best_of_each(found), stopped=stopped)


def asked_again(prompt: Prompt, template: str, **texts: str) -> Prompt:
    """The prompt with ``template`` after it, ``{name}`` replaced by each of ``texts``; where one is the ``draft``, a
    chat has it as the model's own turn and the template as the user's next.

    Raises CapabilityError for token ids, which have no text to add to.
    """
    said = template
    for name, text in texts.items():
        said = said.replace("{" + name + "}", text)
    draft = texts.get("draft", "")
    if isinstance(prompt, str):
        return prompt + draft + said
    messages: list[Any] = list(prompt)
    if not all(isinstance(message, Mapping) for message in messages):
        raise CapabilityError("Asking again needs a prompt of text or chat messages, not token ids.")
    answer = [{"role": "assistant", "content": draft}] if draft else []
    return [*messages, *answer, {"role": "user", "content": said.strip()}]
