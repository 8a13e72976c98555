"""Votes of completions from every step of a line (Hammoud et al. 2025, arXiv:2504.20708)."""

from __future__ import annotations

import math

from outthink.core.budget import Ledger
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.core.sampling import Until
from outthink.lm.protocol import LM, Branch
from outthink.reason.holding import Holding, together
from outthink.reason.population import weigh
from outthink.reason.segment import Segmenter
from outthink.reason.waves import SLACK, with_share
from outthink.verify import Verifier


@method(
    "subthought-vote",
    family="aggregation",
    summary="Finish a line anew from each of its own steps; the answer that most of these reach.",
    guarantee="heuristic",
    promise="none beyond measurement: completions of one line share its beginnings; their spread tells an unsure line",
    paper="Hammoud et al. 2025, Beyond the Last Answer: Your Reasoning Trace Uncovers More than You Think, "
    "arXiv:2504.20708",
    needs=("continuation",),
)
async def subthought_vote(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    cuts: int = 8,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """Lines, each with up to ``cuts`` completions from its steps, evenly spaced, until there are ``n`` in all."""
    segmenter, lines = Segmenter.of(steps), list[Branch]()
    async with await lm.root(question.prompt) as root, Holding() as held:
        while len(lines) < n and not ledger.exhausted:
            trace = await _trace(question, root, segmenter, max_tokens, held)
            lines.append(trace[-1])
            if not trace[0].tokens:
                break  # what is left does not even buy the prompt
            starts = _affordable(trace, min(cuts, n - len(lines)), ledger.tokens_left)
            total = sum(rest for _, rest in starts)
            shares = [ledger.tokens_left * rest / total for _, rest in starts]
            limits = [None if max_tokens is None else max_tokens - _length(tip) for tip, _ in starts]
            lines += await together(
                _complete(tip, Until(limit), share, held)
                for (tip, _), limit, share in zip(starts, limits, shares, strict=True)
            )
            await held.keep(())
    return weigh(question, lines)


async def _trace(
    question: Question, root: Branch, segmenter: Segmenter, max_tokens: int | None, held: Holding
) -> list[Branch]:
    """One line, step by step: its tips."""
    trace, left = list[Branch](), math.inf if max_tokens is None else max_tokens
    while left >= 1:
        until = segmenter.until(left)
        [tip] = held.add(await (trace[-1] if trace else root).extend(1, until))
        trace.append(tip)
        left -= len(tip.tokens)
        if tip.finish == "budget" or segmenter.is_whole(question, tip, until):
            break
    return trace


def _affordable(trace: list[Branch], most: int, tokens_left: float) -> list[tuple[Branch, int]]:
    """At most ``most`` steps to go on from, evenly spaced, that ``tokens_left`` can probably finish; each with the
    number of tokens that the line itself took from there.
    """
    whole = _length(trace[-1])
    rests = [(tip, rest) for tip in trace[:-1] if (rest := whole - _length(tip)) > 0]
    for count in range(min(most, len(rests)), 0, -1):
        chosen = [rests[i * len(rests) // count] for i in range(count)]
        if SLACK * sum(rest for _, rest in chosen) <= tokens_left:
            return chosen
    return []


async def _complete(tip: Branch, until: Until, share: float, held: Holding) -> Branch:
    [line] = held.add(await tip.extend(1, with_share(until, share)))
    return line


def _length(tip: Branch) -> int:
    return len(tip.tokens) + (_length(tip.parent) if tip.parent is not None else 0)
