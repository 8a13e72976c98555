"""Labelers: how often a step's prefix ends right, found out by letting the model itself continue it.

Each takes a question and the branch of its prompt and returns labelled lines. Rollouts from a prefix share its KV. All
lines are drawn from the model's own law at the root's sampling, so a labeler's result depends on the seed alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from outthink.core.errors import UnknownNameError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Until
from outthink.learn.rewards.records import LabelledLine, StepLabel
from outthink.lm.protocol import Branch
from outthink.reason.segment import answer_in_lines


class Labeler(Protocol):
    """Labels lines of one question. ``name`` is what commands call it; `label` leaves nothing open but ``root``."""

    @property
    def name(self) -> str: ...

    async def label(self, question: Question, root: Branch) -> list[LabelledLine]: ...


@dataclass(frozen=True)
class _Rollouts:
    """``lines`` sampled lines a problem, ``rollouts`` continuations of a prefix, ``max_tokens`` of a line in all."""

    lines: int = 1
    rollouts: int = 8
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")


@dataclass(frozen=True)
class Outcomes(_Rollouts):
    """Whole sampled lines, right or wrong, without step labels: the least that an outcome reward model needs."""

    name = "outcomes"

    async def label(self, question: Question, root: Branch) -> list[LabelledLine]:
        """See `Labeler`."""
        lines = await root.extend(self.lines, Until(self.max_tokens))
        try:
            return [LabelledLine(line.full_text, line.ended, is_right(question, line)) for line in lines]
        finally:
            await _close(lines)


@dataclass(frozen=True)
class MonteCarlo(_Rollouts):
    """Every step prefix labelled with the share of its continuations that end right (Wang et al. 2024, Math-Shepherd,
    arXiv:2312.08935, soft estimation).

    The line's own continuation is one of the ``rollouts``: given the prefix it is drawn from the same law as the
    others. So a label is unbiased for the probability that the prefix ends right, with variance at most
    1 / (4 rollouts); labels of one line are dependent.
    """

    name = "monte-carlo"

    async def label(self, question: Question, root: Branch) -> list[LabelledLine]:
        """See `Labeler`."""
        firsts = await root.extend(self.lines, _one_step(self.max_tokens))
        return list(await asyncio.gather(*(self._label_line(question, [first]) for first in firsts)))

    async def _label_line(self, question: Question, nodes: list[Branch]) -> LabelledLine:
        try:
            async with asyncio.TaskGroup() as group:
                counts: list[asyncio.Task[int]] = []
                while left := _tokens_left(question, nodes, self.max_tokens):
                    # The rollouts of a prefix run while the line goes on; its own continuation is the first child.
                    own = group.create_task(nodes[-1].extend(1, _one_step(left)))
                    counts.append(group.create_task(count_right(question, nodes[-1], self.rollouts - 1, left)))
                    nodes += await own
            right = is_right(question, nodes[-1])
            values = [(right + count.result()) / self.rollouts for count in counts]
            return _labelled(question, nodes, values, [self.rollouts] * len(values))
        finally:
            await _close(nodes)


@dataclass(frozen=True)
class BinarySearch(_Rollouts):
    """The first wrong step of every wrong line, by bisection: a step is wrong where none of ``rollouts`` continuations
    from it ends right. Prefixes before it are labelled 1, the others 0 (Luo et al. 2024, OmegaPRM, arXiv:2406.06592,
    section 3.2).

    Success is taken to end at one step for good, which is so in the limit of rollouts. Continuations are drawn in
    doubling waves and no more once one is right. A right line has only steps that end right. A problem that none of
    ``rollouts`` lines solves says nothing of where a line went wrong: its lines have no step labels.
    """

    name = "binary-search"

    async def label(self, question: Question, root: Branch) -> list[LabelledLine]:
        """See `Labeler`."""
        firsts = await root.extend(self.lines, _one_step(self.max_tokens))
        lines = [[first] for first in firsts]
        try:
            await asyncio.gather(*(_grow(question, nodes, self.max_tokens) for nodes in lines))
            solvable = any(is_right(question, nodes[-1]) for nodes in lines) or await any_right(
                question, root, self.rollouts - self.lines, self.max_tokens
            )
            return list(await asyncio.gather(*(self._label_line(question, nodes, solvable) for nodes in lines)))
        finally:
            await _close([node for nodes in lines for node in nodes])

    async def _label_line(self, question: Question, nodes: Sequence[Branch], solvable: bool) -> LabelledLine:
        if is_right(question, nodes[-1]):
            return _labelled(question, nodes, [1.0] * (len(nodes) - 1), [0] * (len(nodes) - 1))
        if not solvable:
            return _labelled(question, nodes, [], [])
        asked = [0] * (len(nodes) - 1)
        # Prefixes of ``good`` steps and fewer can end right, those of ``bad`` steps and more cannot.
        good, bad = 0, len(nodes)
        while bad - good > 1:
            middle = (good + bad) // 2
            left = _tokens_left(question, nodes[:middle], self.max_tokens)
            asked[middle - 1] = self.rollouts
            if await any_right(question, nodes[middle - 1], self.rollouts, left):
                good = middle
            else:
                bad = middle
        return _labelled(question, nodes, [float(step < good) for step in range(len(asked))], asked)


LABELERS: Mapping[str, type[Outcomes] | type[MonteCarlo] | type[BinarySearch]] = {
    labeler.name: labeler for labeler in (MonteCarlo, BinarySearch, Outcomes)
}


def make_labeler(name: str, lines: int, rollouts: int, max_tokens: int) -> Labeler:
    """The labeler called ``name``; an UnknownNameError lists the known ones."""
    if name not in LABELERS:
        raise UnknownNameError("labeler", name, LABELERS)
    return LABELERS[name](lines, rollouts, max_tokens)


def is_right(question: Question, line: Branch) -> bool:
    """Whether a line reached an answer, and a right one. It is over with the first finished line of text that gives
    one: what a rollout writes after that is not read, for a line that grows step by step is stopped there.
    """
    assert question.check is not None, "only questions that can be checked are labelled"
    answer = _first_answer(question, line.full_text) or question.answer_of(line)
    return answer is not None and question.check(answer)


def _first_answer(question: Question, text: str) -> str | None:
    end = text.find("\n") + 1
    while end:
        answer = question.parse(text[:end])
        if answer is not None:
            return answer
        end = text.find("\n", end) + 1
    return None


async def count_right(question: Question, prefix: Branch, n: int, max_tokens: int) -> int:
    """How many of ``n`` new continuations of ``prefix``, of at most ``max_tokens`` tokens each, end right."""
    lines = await prefix.extend(n, Until(max_tokens))
    try:
        return sum(is_right(question, line) for line in lines)
    finally:
        await _close(lines)


async def any_right(question: Question, prefix: Branch, n: int, max_tokens: int) -> bool:
    """Whether one of up to ``n`` new continuations of ``prefix`` ends right: 1, 2, 4, ... at a time."""
    drawn, wave = 0, 1
    while drawn < n:
        if await count_right(question, prefix, min(wave, n - drawn), max_tokens):
            return True
        drawn, wave = drawn + wave, 2 * wave
    return False


def _one_step(max_tokens: int) -> Until:
    return Until(max_tokens, ("\n",))


def _tokens_left(question: Question, nodes: Sequence[Branch], max_tokens: int) -> int:
    """How many tokens may follow the line that ends at the last of ``nodes``; 0 where it is over."""
    last = nodes[-1]
    if last.finish != "stop" or last.ended or answer_in_lines(question, last) is not None:
        return 0
    return max(0, max_tokens - sum(len(node.tokens) for node in nodes))


async def _grow(question: Question, nodes: list[Branch], max_tokens: int) -> None:
    """Grow the line of ``nodes`` to its end, a node a step, in place."""
    while left := _tokens_left(question, nodes, max_tokens):
        nodes += await nodes[-1].extend(1, _one_step(left))


def _labelled(
    question: Question, nodes: Sequence[Branch], values: Sequence[float], rollouts: Sequence[int]
) -> LabelledLine:
    """The line of ``nodes`` with labels for as many of its step prefixes as there are ``values``."""
    last, end, steps = nodes[-1], 0, []
    for node, value, count in zip(nodes, values, rollouts, strict=False):
        end += len(node.text)
        steps.append(StepLabel(end, value, count))
    return LabelledLine(last.full_text, last.ended, is_right(question, last), tuple(steps))


async def _close(branches: Sequence[Branch]) -> None:
    for branch in branches:
        await branch.close()
