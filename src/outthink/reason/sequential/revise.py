"""Revision: a line is checked, and written anew from its first wrong step, or after being told what was wrong."""

from __future__ import annotations

import math
from collections import Counter

from outthink.core.budget import Ledger
from outthink.core.errors import PromptError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding
from outthink.reason.search.options import at_least
from outthink.reason.segment import Segmenter
from outthink.reason.sequential.traces import Trace, accepted, asked_again, conclude, judge_all, write_on
from outthink.verify import Verifier
from outthink.verify.compose import for_steps
from outthink.verify.needs import check_verifier


@method(
    "revise",
    family="sequential",
    summary="Write a line, have it checked, and write it anew from the first wrong step (or ask for that in words).",
    guarantee="heuristic",
    promise="as good as the verifier's eye for the first wrong step; with a sound one, an accepted answer is right",
    paper="Tyen et al. 2024, LLMs Cannot Find Reasoning Errors, but Can Correct Them Given the Error Location, "
    "arXiv:2311.08516 (from the first wrong step); Madaan et al. 2023, Self-Refine: Iterative Refinement with "
    "Self-Feedback, arXiv:2303.17651 (in words)",
    needs=("continuation",),
)
async def revise(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 16,
    width: int = 3,
    bad: float = 0.5,
    feedback: str | None = None,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Up to ``n`` lines, until one is accepted or has no step with exp(score) below ``bad``.

    A line is gone back into just before its first wrong step; where ``width`` revisions from there did not help, one
    step further up each time. With ``feedback``, a text with places for {answer} and {step} (the first wrong one), an
    instruction model is shown its last line and told that instead.
    """
    at_least(1, n=n, width=width)
    judge, segmenter = for_steps(verifier), Segmenter.of(steps)
    check_verifier(lm, judge)
    longest = math.inf if max_tokens is None else max_tokens
    lines, tries, stopped = list[Trace](), Counter[Branch](), "finished"
    if feedback is not None:
        asked_again(question.prompt, feedback)
    async with Holding() as held:
        [root] = held.add([await lm.root(question.prompt)])
        start = Trace(root)
        while len(lines) < n and not ledger.exhausted:
            line = await write_on(question, start, segmenter, longest, math.inf, held)
            lines.append(line)
            await judge_all(question, judge, [line], ledger)
            wrong = line.first_wrong(bad)
            if accepted(question, judge, line) or wrong is None or line.end.finish == "budget":
                stopped = "no fault found" if wrong is None and line.end.finish != "budget" else stopped
                break
            if feedback is None:
                start = _go_back(line, wrong, tries, width)
            else:
                said = {"answer": question.answer_of(line.end) or "", "step": line.tips[wrong].text.strip()}
                prompt = asked_again(question.prompt, feedback, draft=line.end.full_text, **said)
                try:
                    [root] = held.add([await lm.root(prompt)])
                except PromptError:
                    break  # no room for another turn
                start = Trace(root)
            await held.keep([start.root, *start.tips])
    return conclude(question, judge, lines, stopped)


def _go_back(line: Trace, wrong: int, tries: Counter[Branch], width: int) -> Trace:
    """The steps before the wrong one; fewer where that was tried ``width`` times."""
    while wrong and tries[line.upto(wrong).end] >= width:
        wrong -= 1
    start = line.upto(wrong)
    tries[start.end] += 1
    return start
