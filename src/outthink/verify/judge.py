"""The language model as its own judge: the probability of yes, and which of two lines is the better one.

Both ask over the plain `LM` protocol, so that any model that can score text will do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, PromptError, UserError
from outthink.core.question import Prompt, Question
from outthink.core.together import together
from outthink.lm.protocol import LM, Branch
from outthink.verify.odds import EVEN, log_sigmoid

IS_IT_RIGHT = "\n\nIs this right so far? Answer yes or no: "
WHICH_IS_BETTER = (
    "{problem}\n\nFirst solution:\n{first}\n\nSecond solution:\n{second}\n\n"
    "Which solution is better? Answer first or second: "
)
_MOST_LOG_ODDS = 30.0  # of one comparison, so that strengths stay finite
Pairs = Sequence[tuple[int, int]]


class SelfEvaluation:
    """The probability of yes against no where the model that wrote a line is asked whether it is right (Kadavath et al.
    2022, Language Models (Mostly) Know What They Know, arXiv:2207.05221, P(True); as a guide of search Xie et al. 2023,
    arXiv:2305.00633).

    ``question`` is fed after the line, and ``yes`` and ``no`` are scored after that. A line that could not be asked
    about, for want of budget or room, weighs as at even odds.
    """

    name = "self-evaluation"
    sound = False
    partial = True
    needs = ("score",)

    def __init__(self, question: str = IS_IT_RIGHT, yes: str = "yes", no: str = "no") -> None:
        self.question, self.yes, self.no = question, yes, no

    def require(self, question: Question) -> None:
        """Any question will do."""

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        paying = ledger.for_verifier()
        return await together(self._score(branch, paying) for branch in branches)

    def accepts(self, score: float) -> bool:
        """Never: a model may be sure of a wrong line."""
        return False

    async def _score(self, branch: Branch, ledger: Ledger) -> float:
        aside = await branch.aside(ledger)
        try:
            asked = await aside.feed(self.question)
        except PromptError:
            if branch.finish != "length":
                raise
            return EVEN  # the line has filled the context
        async with asked:
            odds = await _log_odds(asked, self.yes, self.no, ledger)
        return EVEN if odds is None else log_sigmoid(odds)


class PairwiseJudge:
    """The probability that a line beats an average one of those it is scored with, by the judgements of ``lm``
    (Bradley and Terry 1952, Rank Analysis of Incomplete Block Designs, Biometrika 39).

    Each line meets ``rivals`` others, or all where there are no more, each pair in both orders, for models prefer a
    place. ``ask`` is the prompt, with places for ``problem``, ``first`` and ``second``; the text of ``first`` and
    ``second`` is scored after it. Equal lines are one. Only what is scored together can be compared: give it whole
    lines, many at a time. Pairs that do not fit the context or the budget are not compared; a line without any pair
    weighs as at even odds.
    """

    name = "pairwise"
    sound = False
    partial = False
    relative = True
    needs = ("score",)

    def __init__(
        self, lm: LM, rivals: int = 6, ask: str = WHICH_IS_BETTER, first: str = "first", second: str = "second"
    ) -> None:
        if rivals < 1:
            raise UserError(f"rivals={rivals!r} must be at least 1.")
        self.lm, self.rivals, self.ask, self.first, self.second = lm, rivals, ask, first, second

    @classmethod
    def open(cls, lm: LM | None, argument: str) -> PairwiseJudge:
        """The judge that ``lm`` itself is; ``argument`` is the number of rivals, or nothing."""
        if lm is None:
            raise UserError("The pairwise judge asks a language model: give it one.")
        if argument and not argument.isdecimal():
            raise UserError(f"'pairwise:{argument}': after the colon stands how many rivals a line meets, such as 6.")
        return cls(lm, int(argument)) if argument else cls(lm)

    def require(self, question: Question) -> None:
        """Raise CapabilityError for a prompt of token ids."""
        _problem(question.prompt)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        texts = [branch.full_text for branch in branches]
        lines = list(dict.fromkeys(texts))
        pairs = tournament(len(lines), self.rivals)
        judge = self.lm.with_ledger(ledger.for_verifier())
        games = [self._compare(judge, question.prompt, lines[i], lines[j]) for i, j in pairs]
        odds = await asyncio.gather(*games, return_exceptions=True)
        if errors := [each for each in odds if isinstance(each, BaseException)]:
            other = [error for error in errors if not isinstance(error, PromptError)]
            if other or len(errors) == len(odds):
                raise (other or errors)[0]
        played = [(pair, each) for pair, each in zip(pairs, odds, strict=True) if isinstance(each, float)]
        strengths = bradley_terry(len(lines), [pair for pair, _ in played], [each for _, each in played])
        weight = dict(zip(lines, map(log_sigmoid, strengths), strict=True))
        return [weight[text] for text in texts]

    def accepts(self, score: float) -> bool:
        """Never: the best of some lines need not be right."""
        return False

    async def _compare(self, judge: LM, prompt: Prompt, a: str, b: str) -> float | None:
        """The log-odds of ``a`` against ``b``, the mean of both orders; None where the budget ran out."""
        forth, back = await together((self._ask(judge, prompt, a, b), self._ask(judge, prompt, b, a)))
        return None if forth is None or back is None else (forth - back) / 2

    async def _ask(self, judge: LM, prompt: Prompt, first: str, second: str) -> float | None:
        text = self.ask.format(problem=_problem(prompt), first=first.strip("\n"), second=second.strip("\n"))
        root = await judge.root(text if isinstance(prompt, str) else [{"role": "user", "content": text}])
        root.thought.move(None)  # a judgement is no thought of the problem's
        async with root:
            return await _log_odds(root, self.first, self.second, judge.ledger)


def tournament(n: int, rivals: int) -> list[tuple[int, int]]:
    """The pairs of ``n`` lines by which each meets ``rivals`` others (one more where that comes out odd), or all."""
    if n <= rivals + 1:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    return [(i, (i + step) % n) for step in range(1, -(-rivals // 2) + 1) for i in range(n)]


def bradley_terry(n: int, pairs: Pairs, log_odds: Sequence[float]) -> list[float]:
    """The strengths (nats) by which P(i beats j) = sigmoid(strength i - strength j) fits the log-odds best in
    cross-entropy, by Newton's method; lines that are connected by pairs have mean 0.

    Where log-odds are differences of strengths, it is those strengths exactly.
    """
    strengths = np.zeros(n)
    if not pairs:
        return strengths.tolist()
    left, right = np.array(pairs).T
    wins = _sigmoid(np.clip(np.array(log_odds), -_MOST_LOG_ODDS, _MOST_LOG_ODDS))

    def loss(x: NDArray[np.float64]) -> float:
        margin = x[left] - x[right]
        return float(np.sum(np.logaddexp(0.0, margin) - wins * margin))

    for _ in range(100):
        chances = _sigmoid(strengths[left] - strengths[right])
        slope, curve = np.zeros(n), np.zeros((n, n))
        np.add.at(slope, left, chances - wins)
        np.add.at(slope, right, wins - chances)
        spread = chances * (1 - chances)
        for rows, columns, sign in ((left, left, 1), (right, right, 1), (left, right, -1), (right, left, -1)):
            np.add.at(curve, (rows, columns), sign * spread)
        step = np.linalg.pinv(curve, hermitian=True) @ slope  # the least one: it moves no connected part as a whole
        size, before = 1.0, loss(strengths)
        while loss(strengths - size * step) > before and size > 1e-6:
            size /= 2
        strengths = strengths - size * step
        if np.abs(size * step).max() < 1e-12:
            break
    return strengths.tolist()


async def _log_odds(branch: Branch, yes: str, no: str, ledger: Ledger) -> float | None:
    """log P(yes) - log P(no) after ``branch``, in nats; None where the budget ran out."""
    for_it, against = await together((branch.score(yes), branch.score(no)))
    if ledger.exhausted or not for_it or not against:  # one of them may be cut
        return None
    return math.fsum(for_it) - math.fsum(against)


def _problem(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if all(isinstance(message, Mapping) for message in prompt):
        return "\n\n".join(str(message["content"]) for message in prompt if isinstance(message, Mapping))
    raise CapabilityError("The pairwise judge reads problems as text, and this prompt is of token ids; give the text.")


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -x))
