"""Answers asked again with earlier answers as hints, and averaged over them (Pal et al. 2024, arXiv:2412.13292)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, PromptError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Prompt, Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.population import weigh
from outthink.reason.waves import DOUBT, SLACK, with_share
from outthink.verify import Verifier

READABLE = 0.5  # a hint that leaves less than this share of the lines that answer without one is not read


class _Round(AsyncExitStack):
    """Lines drawn below prompts that are held open; a prompt's lines share its weight, however many they are.

    ``weights``: of the prompts by name, likeliest first. ``cost``: the part of the budget that a line took.
    """

    def __init__(
        self,
        question: Question,
        lm: LM,
        ledger: Ledger,
        until: Until,
        prompts: Mapping[str, Prompt],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self._question, self._lm, self._ledger, self._until = question, lm, ledger, until
        self._prompts, self._weights = prompts, dict(weights)
        self._roots: dict[str, Branch] = {}
        self._below: dict[str, list[Branch]] = {}
        self._cut = False
        self.cost = 0.0

    async def draw(self, most: int, end: float, cost: float = 0.0) -> None:
        """Draw up to ``most`` lines in all while less than the part ``end`` of the budget is spent, but one at least.

        ``cost`` of a line is a guess for the first of them; by their number the prompts are chosen, the likeliest ones.
        It ends where the budget cuts a line. Raises PromptError for a prompt that does not fit.
        """
        while self._weights and not self._cut and (num := self.num) < most:
            spent = self._ledger.fraction_spent
            if num and spent >= end:
                break
            total = num + _affordable(self._ledger, most - num, end - spent, self.cost or cost, num)
            if not num:
                self._weights = {name: self._weights[name] for name in share_out(self._weights, total)}
            for name, count in share_out(self._weights, total).items():
                await self._more(name, count - len(self._below.get(name, ())))
            self.cost = (num * self.cost + self._ledger.fraction_spent - spent) / total

    async def _more(self, name: str, count: int) -> None:
        """``count`` more lines below a prompt; none where the budget cuts one of them."""
        if self._cut or count <= 0:
            return
        if name not in self._roots:
            self._roots[name] = await self.enter_async_context(await self._lm.root(self._prompts[name]))
        lines = await self._roots[name].extend(count, with_share(self._until, self._ledger.tokens_left / count))
        for line in lines:
            await line.close()
        self._cut = any(line.finish == "budget" for line in lines)
        if not self._cut:
            self._below.setdefault(name, []).extend(lines)

    @property
    def num(self) -> int:
        """How many lines there are."""
        return sum(len(lines) for lines in self._below.values())

    def lines(self) -> dict[Branch, float]:
        """The lines and their weights."""
        return {line: self._weights[name] / len(lines) for name, lines in self._below.items() for line in lines}

    @property
    def answering(self) -> float:
        """The weight of the lines that have an answer."""
        return math.fsum(w for line, w in self.lines().items() if self._question.answer_of(line) is not None)

    def answers(self) -> dict[str, float]:
        """Answer to its share among the lines that have one, largest first; empty where a prompt has no line."""
        shares: dict[str, float] = {}
        for line, weight in self.lines().items() if self._below.keys() == self._weights.keys() else ():
            if (answer := self._question.answer_of(line)) is not None:
                shares[answer] = shares.get(answer, 0.0) + weight
        total = math.fsum(shares.values())
        return {a: w / total for a, w in sorted(shares.items(), key=lambda item: -item[1])} if total else {}


def _affordable(ledger: Ledger, most: int, part: float, cost: float, seen: int) -> int:
    """How many lines of about ``cost``, as ``seen`` ones took, will hardly cost more than ``part`` of the budget; at
    least one, and ``most`` at most. The very first is drawn alone.
    """
    if not ledger.limited:
        return most
    return max(1, min(most, int(part / (cost * (SLACK + DOUBT / max(1, seen)))))) if cost else 1


@method(
    "hint-marginalization",
    family="aggregation",
    summary="Ask again with each earlier answer as a hint; average what comes of it by how likely the hint was.",
    guarantee="heuristic",
    promise="none beyond measurement: given the earlier answers' shares, each round's are an unbiased estimate of the "
    "sum over hints of share x P(answer | hint)",
    paper="Pal, Chételat, Zhang and Coates 2024, Hint Marginalization for Improved Reasoning in Large Language Models, "
    "arXiv:2412.13292",
)
async def hint_marginalization(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    rounds: int = 2,
    hint: str = "\n(Hint: the answer may be {answer}.)",
    max_tokens: int | None = None,
) -> Posterior:
    """``n`` lines in all: half without a hint, the rest shared out over ``rounds`` of hinted ones. A budget that ends
    before ``n`` is shared out in the same way.

    A round that the budget cuts before all of its hints got a line is left out, and so is one whose hint the model has
    no room for or, as fewer than half as many of its lines answer, cannot read; what is left then goes to the round
    before it.
    """
    if rounds < 0 or "{answer}" not in hint:
        raise UserError(
            f"rounds={rounds} must not be negative, and the hint {hint!r} must have a place for {{answer}}."
        )
    with_hint(question.prompt, hint, "")
    until, first = Until(max_tokens), n if not rounds else max(1, n // 2)
    async with AsyncExitStack() as stack:
        law = _Round(question, lm, ledger, until, {"": question.prompt}, {"": 1.0})
        await stack.enter_async_context(law)
        await law.draw(first, 0.5 if rounds else 1.0)
        tried = law.num
        for i in range(rounds):
            shares, spent = law.answers(), ledger.fraction_spent
            prompts = {answer: with_hint(question.prompt, hint, answer) for answer in shares}
            hinted = _Round(question, lm, ledger, until, prompts, shares)
            await stack.enter_async_context(hinted)
            with suppress(PromptError):
                most = (n - first) // rounds + (i < (n - first) % rounds)
                await hinted.draw(most, spent + (1 - spent) / (rounds - i), law.cost)
            tried += hinted.num
            if not hinted.answers() or hinted.answering < READABLE * law.answering:
                break
            law = hinted
        num = law.num
        await law.draw(num + n - tried, 1.0)
        weights, tried = law.lines(), tried + law.num - num
    return replace(weigh(question, list(weights), lambda line: math.log(weights[line])), attempts=tried)


def share_out(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """``total`` lines over the likeliest hints in proportion to their shares, one at least for each that gets any."""
    likeliest = dict(list(shares.items())[:total])
    counts = dict.fromkeys(likeliest, 1)
    for _ in range(total - len(counts)):
        if counts:  # the one that is furthest behind its share (Sainte-Laguë's divisors)
            counts[max(counts, key=lambda a: likeliest[a] / (2 * counts[a] + 1))] += 1
    return counts


def with_hint(prompt: Prompt, hint: str, answer: str) -> Prompt:
    """The prompt with a hint at its end; that of a chat at the end of its last message by the user.

    Raises CapabilityError for token ids, which have no text to add to.
    """
    text = hint.replace("{answer}", answer)
    if isinstance(prompt, str):
        return prompt + text
    messages: list[Any] = list(prompt)
    for i in range(len(messages) - 1, -1, -1):
        if isinstance(messages[i], Mapping) and messages[i].get("role") == "user":
            messages[i] = {**messages[i], "content": f"{messages[i]['content']}{text}"}
            return messages
    raise CapabilityError("A hint needs a prompt of text or chat messages, not token ids.")
