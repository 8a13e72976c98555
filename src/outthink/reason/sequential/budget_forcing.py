"""Budget forcing: chains of thought that are ended early or made to go on (Muennighoff et al. 2025, s1)."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from outthink.core.budget import Ledger
from outthink.core.errors import PromptError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding
from outthink.reason.population import weigh
from outthink.reason.search.options import at_least
from outthink.reason.sequential.apart import lines_apart
from outthink.verify import Verifier


@dataclass(frozen=True)
class Forcing:
    """How many tokens a line may or must think, and the texts that make it; see `budget_forcing`."""

    least: int
    most: float
    waits: int
    wait: str
    ends: tuple[str, ...]
    answer: str
    reserve: int
    longest: float

    def room(self, ledger: Ledger, thought: int) -> float:
        """How many more tokens may be thought, after ``thought`` of them, so that there is a reserve for the answer."""
        return min(self.most - thought, self.longest - thought - self.reserve, ledger.tokens_left - self.reserve)


@method(
    "budget-forcing",
    family="sequential",
    summary="Have each line think for a least and a most number of tokens: forced on, or forced to answer. Then vote.",
    guarantee="heuristic",
    promise="none beyond measurement; every line that may think at all comes to an answer within its budget",
    paper="Muennighoff et al. 2025, s1: Simple Test-Time Scaling, arXiv:2501.19393, section 3",
    needs=("continuation", "score"),
)
async def budget_forcing(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 16,
    least: int = 0,
    most: int | None = None,
    waits: int = 4,
    wait: str = "Wait",
    ends: tuple[str, ...] = ("</think>", "\nanswer:"),
    answer: str = "\nanswer:",
    reserve: int = 24,
    max_tokens: int | None = None,
) -> Posterior:
    """Thinking ends at one of ``ends`` or with the line. Before ``least`` tokens that end is taken back and ``wait``
    written instead, at most ``waits`` times; after ``most``, or so that ``reserve`` tokens of the budget are left, it
    is cut and ``answer`` written. For a model that thinks in tags, ``answer`` should close them.
    """
    at_least(0, least=least, waits=waits)
    at_least(1, most=most, reserve=reserve)
    if not (wait and answer and ends) or (most is not None and most < least):
        raise UserError(
            f"wait={wait!r}, answer={answer!r} and ends={ends!r} must not be empty, and least={least} not above "
            f"most={most}."
        )
    cap, longest = (math.inf if limit is None else limit for limit in (most, max_tokens))
    plan = Forcing(least, cap, waits, wait, ends, answer, reserve, longest)
    return weigh(question, await lines_apart(lm, n, partial(_line, question, plan)))


async def _line(question: Question, plan: Forcing, lm: LM) -> Branch:
    async with await lm.root(question.prompt) as root, Holding() as held:
        if lm.ledger.limited:
            with suppress(PromptError):  # this pays for the prompt: then it is known what is left to think with
                await root.score(plan.answer[:1])
        tip, thought, waited, step = root, 0, 0, None
        while (room := plan.room(lm.ledger, thought)) >= 1:
            [step] = held.add(await tip.extend(1, Until(None if room == math.inf else int(room), plan.ends)))
            thought += len(step.tokens)
            if step.finish != "stop":
                if step.finish == "budget" or len(step.tokens) < room:
                    return step  # nothing can follow: the budget or the context is at its end
                tip = step
                continue
            if thought >= plan.least or waited == plan.waits:
                return step if step.ended else await _finish(lm, plan, step, thought, held)
            try:
                [tip] = held.add([await tip.feed(step.completion + plan.wait)])
            except PromptError:
                return step
            waited += 1
        try:
            [tip] = held.add([await tip.feed(plan.answer)])
        except PromptError:
            return step or await _finish(lm, plan, root, 0, held)
        return await _finish(lm, plan, tip, thought, held)


async def _finish(lm: LM, plan: Forcing, tip: Branch, thought: int, held: Holding) -> Branch:
    left = plan.longest - thought
    [line] = held.add(await tip.extend(1, Until(None if left == math.inf else max(1, int(left)))))
    return line
