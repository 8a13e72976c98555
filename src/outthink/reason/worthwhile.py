"""Sampling past a checker that can be fooled, for as long as another line is worth its risk (arXiv:2411.17501)."""

from __future__ import annotations

import math
from contextlib import aclosing
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.posterior.stopping import Resampling
from outthink.reason.in_order import lines_in_order, whole_line
from outthink.reason.population import weigh
from outthink.verify import Verifier


@method(
    "sample-while-worthwhile",
    family="aggregation",
    summary="Sample until a fallible verifier accepts, or until accepting would more likely be a mistake than a gain.",
    guarantee="bounded",
    promise="no number of lines has a higher expected gain, if the stated error rates, costs and prior are true; the "
    "confidence is then the probability of being right",
    paper="Stroebl, Kapoor and Narayanan 2024, Inference Scaling fLaws: The Limits of LLM Resampling with Imperfect "
    "Verifiers, arXiv:2411.17501",
    accepting=True,
)
async def sample_while_worthwhile(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    width: int = 4,
    accepts_right: float = 1.0,
    accepts_wrong: float | None = None,
    wrong_cost: float = 1.0,
    line_cost: float = 0.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    max_tokens: int | None = None,
) -> Posterior:
    """A right answer gains 1, a wrong one loses ``wrong_cost``, a line costs ``line_cost``, no answer nothing.

    The verifier accepts right lines with probability ``accepts_right`` and wrong ones with ``accepts_wrong`` (0 by
    default if it is sound, else 0.05); the share of right lines is Beta(``alpha``, ``beta``) over problems. Each
    rejection makes a hard problem likelier, and so a false acceptance.
    """
    if verifier is None:
        raise CapabilityError("sample-while-worthwhile needs a verifier that can accept a line, such as 'exact'.")
    if accepts_wrong is None:
        accepts_wrong = 0.0 if verifier.sound else 0.05
    model = Resampling.beta(alpha, beta, accepts_right, accepts_wrong, wrong_cost, line_cost)
    lines: list[Branch] = []
    most = min(n, model.best_number(n))
    async with (
        await lm.root(question.prompt) as root,
        aclosing(lines_in_order(whole_line(root, Until(max_tokens)), most, width, ledger)) as sampled,
    ):
        async for line in sampled:
            async with line:
                [score] = await verifier.score(question, [line], ledger)
            line.thought.value = score
            lines.append(line)
            if verifier.accepts(score) and question.answer_of(line) is not None:
                sure = model.confidence(len(lines) - 1)
                found = weigh(question, [line], lambda _, sure=sure: math.log(sure))
                rest = math.log1p(-sure) if sure < 1 else -math.inf
                return replace(found, log_unassigned=rest, attempts=len(lines), stopped="verified")
    none = replace(weigh(question, lines), candidates=(), log_unassigned=0.0)
    return replace(none, stopped="not worth another line" if len(lines) == most < n else "nothing verified")
