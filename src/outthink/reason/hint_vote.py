"""Answers asked again with earlier answers as hints, and averaged over them (Pal et al. 2024, arXiv:2412.13292)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, PromptError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Prompt, Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.population import weigh
from outthink.reason.waves import sample_lines
from outthink.verify import Verifier


@dataclass(frozen=True)
class _Law:
    """Lines and their weights, which sum to 1."""

    lines: list[Branch]
    weights: list[float]

    def shares(self, question: Question) -> dict[str, float]:
        """Answer to its share among the lines that have one, largest first."""
        shares: dict[str, float] = {}
        for line, weight in zip(self.lines, self.weights, strict=True):
            if (answer := question.answer_of(line)) is not None:
                shares[answer] = shares.get(answer, 0.0) + weight
        total = math.fsum(shares.values())
        return {a: w / total for a, w in sorted(shares.items(), key=lambda item: -item[1])} if total else {}


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
    """``n`` lines in all: half without a hint, the rest shared out over ``rounds`` of hinted ones.

    A round that the budget cuts short is left out, and so is one whose hint the model has no room for or, as it brings
    no answer at all, cannot read.
    """
    if rounds < 0 or "{answer}" not in hint:
        raise UserError(
            f"rounds={rounds} must not be negative, and the hint {hint!r} must have a place for {{answer}}."
        )
    with_hint(question.prompt, hint, "")
    until, tried = Until(max_tokens), 0
    first = n if not rounds else max(1, n // 2)
    lines = await _sample(question.prompt, lm, ledger, first, until)
    law, tried = _Law(lines, [1 / max(1, len(lines))] * len(lines)), len(lines)
    for i in range(rounds):
        counts = share_out(law.shares(question), (n - first) // rounds + (i < (n - first) % rounds))
        found = await _hinted(question, lm, ledger, hint, counts, law.shares(question), until)
        if found is None:
            break
        law, tried = found, tried + len(found.lines)
    weights = dict(zip(law.lines, law.weights, strict=True))
    return replace(weigh(question, law.lines, lambda line: math.log(weights[line])), attempts=tried)


async def _hinted(
    question: Question,
    lm: LM,
    ledger: Ledger,
    hint: str,
    counts: Mapping[str, int],
    shares: Mapping[str, float],
    until: Until,
) -> _Law | None:
    """The law after one round of hints; None where not every hint got the lines that it was to get, or none answers."""
    lines, weights, total = list[Branch](), list[float](), math.fsum(shares[answer] for answer in counts)
    for answer, count in counts.items():
        try:
            found = await _sample(with_hint(question.prompt, hint, answer), lm, ledger, count, until)
        except PromptError:
            return None
        whole = [line for line in found if line.finish != "budget"]
        if len(whole) < count:
            return None
        lines += whole
        weights += [shares[answer] / total / count] * count
    law = _Law(lines, weights)
    return law if law.shares(question) else None


async def _sample(prompt: Prompt, lm: LM, ledger: Ledger, n: int, until: Until) -> list[Branch]:
    lines = list[Branch]()
    async with await lm.root(prompt) as root:
        async for wave in sample_lines(root, n, ledger, until):
            lines += wave
            for line in wave:
                await line.close()
    return lines


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
