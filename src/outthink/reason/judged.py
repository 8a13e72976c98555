"""Whole lines with the scores that a verifier gives them, on one budget."""

from __future__ import annotations

from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.core.rng import mix
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding
from outthink.reason.waves import sample_lines
from outthink.verify import Verifier
from outthink.verify.needs import is_relative

COMPARING = ("best-of-n", "weighted-vote")
"""The strategies that verifiers which only compare lines can judge for: they have all their lines judged at once."""
WRITING = 0.2  # share of the budget for lines that are then compared: reading two of them costs more than writing one


async def judged_lines(
    question: Question, lm: LM, judge: Verifier, n: int, ledger: Ledger, until: Until
) -> dict[Branch, float]:
    """Up to ``n`` lines, closed, with their scores in the order of the lines.

    Each wave is judged as it is over; by a verifier that only compares lines, all of them at the end: then, after the
    first line, most of the budget is kept for that.
    """
    at_once, lines, scores = is_relative(judge), list[Branch](), dict[Branch, float]()

    async def judge_new() -> None:
        new = [line for line in lines if line not in scores]
        for line, score in zip(new, await judge.score(question, new, ledger) if new else [], strict=True):
            line.thought.value = scores[line] = score

    async def write(root: Branch, number: int, paying: Ledger) -> None:
        async for wave in sample_lines(root, number, paying, until):
            lines.extend(held.add(wave))
            if not at_once:
                await judge_new()
                await held.keep(())

    async with await lm.root(question.prompt) as root, Holding() as held:
        kept = at_once and ledger.limited
        await write(root, 1 if kept else n, ledger)
        if kept and n > 1 and not ledger.exhausted:
            part = ledger.slice(ledger.share(WRITING))
            others = replace(lm.sampling, seed=mix(lm.sampling.seed, 1))  # else this root would draw the first line too
            async with await lm.with_ledger(part).with_sampling(others).root(question.prompt) as again:
                await write(again, n - 1, part)
        await judge_new()
    return scores
