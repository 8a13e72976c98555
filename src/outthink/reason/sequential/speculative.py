"""Speculation by steps: a small model writes, a large one keeps or rewrites (Pan et al. 2025, SpecReason)."""

from __future__ import annotations

import math
from functools import partial

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, PromptError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.joint import JointBranch, JointLM
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding
from outthink.reason.population import weigh
from outthink.reason.search.options import at_least
from outthink.reason.segment import Segmenter
from outthink.reason.sequential.apart import lines_apart
from outthink.verify import Verifier

LARGE, SMALL = 0, 1


@method(
    "speculative-steps",
    family="sequential",
    summary="A small model writes each step; the large one keeps it or writes it anew. Then vote.",
    guarantee="heuristic",
    promise="none beyond measurement: with accept=0 lines are the small model's own, above 1 the large one's",
    paper="Pan et al. 2025, SpecReason: Fast and Accurate Inference-Time Compute via Speculative Reasoning, "
    "arXiv:2504.07891; here a step is judged by its likelihood or a verifier, for any model, not by asking for a grade",
    models=("draft",),
    needs=("continuation",),
)
async def speculative_steps(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    draft: LM | None = None,
    n: int = 16,
    accept: float = 0.5,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """A step of ``draft`` is kept if exp(the verifier's score) is at least ``accept``; without a verifier of steps, if
    its tokens have at least that probability under ``lm``, in the geometric mean.
    """
    if draft is None:
        raise CapabilityError(
            "speculative-steps needs a second model that writes first: name it, as in -o draft=outthink-s."
        )
    at_least(0, accept=accept)
    judge = verifier if verifier is not None and verifier.partial else None
    check_needs(speculative_steps.needs, draft, "As the small model of speculative-steps it")
    check_needs(("score",) if judge is None else (), lm, "speculative-steps without a verifier of steps")
    longest = math.inf if max_tokens is None else max_tokens
    return weigh(
        question,
        await lines_apart(lm, n, partial(_line, question, draft, judge, accept, Segmenter.of(steps), longest)),
    )


async def _line(
    question: Question,
    draft: LM,
    judge: Verifier | None,
    accept: float,
    segmenter: Segmenter,
    longest: float,
    lm: LM,
) -> Branch:
    async with await JointLM(lm, draft).root(question.prompt) as root, Holding() as held:
        tip, length = root, 0
        while True:
            assert isinstance(tip, JointBranch)
            until = segmenter.until(longest - length)
            try:
                [step] = held.add(await tip.by(SMALL).extend(1, until))
                full = step.finish == "length" and len(step.tokens) < (until.max_tokens or math.inf)
                over = step.finish == "budget"
                kept = over or (not full and await _keeps(question, tip, step, judge, accept, lm.ledger))
            except PromptError:  # the small model's context is full
                step, kept = tip, False
            if not kept:
                if step is not tip:
                    step.thought.fate = "rewritten by the large model"
                [step] = held.add(await tip.by(LARGE).extend(1, until))
            tip, length = step, length + len(step.tokens)
            whole = segmenter.is_whole(question, tip, until)
            if whole or tip.finish == "budget" or length >= longest:
                return tip


async def _keeps(
    question: Question, tip: JointBranch, step: Branch, judge: Verifier | None, accept: float, ledger: Ledger
) -> bool:
    if judge is not None:
        [score] = await judge.score(question, [step], ledger)
    else:
        ledger.charge(verifier_calls=1)
        log_probs = await tip.by(LARGE).score(step.text)  # the end of the line has no text: it goes unjudged
        score = math.fsum(log_probs) / len(log_probs) if log_probs else 0.0
    step.thought.value = score
    return math.exp(min(score, 0.0)) >= accept
