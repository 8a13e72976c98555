"""Beam search over tokens: ordinary, and in groups that keep apart (Vijayakumar et al. 2016)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.population import log_sum, weigh
from outthink.reason.search.options import at_least
from outthink.reason.search.purse import HELD
from outthink.reason.search.token_tree import Hypothesis, Step, TokenTree
from outthink.reason.search.tree import best_of_each
from outthink.verify import Verifier

MOST_PENALTY = 10
MOST = 100  # log-probabilities that may be asked for beside a token's own
BOUND = "every line found is weighed by its exact probability and the rest is unassigned, so that an answer's share is "


@method(
    "token-beam",
    family="decoding",
    summary="Keep the n likeliest lines, token by token.",
    guarantee="bounded",
    promise=BOUND + "at most the model's own; equal to it where the beam holds every line (length_penalty 0)",
    paper="Wu et al. 2016, Google's Neural Machine Translation System, arXiv:1609.08144, section 7",
    needs=("continuation", "log_probs", "top_log_probs", "token_ids"),
)
async def token_beam(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 8,
    length_penalty: float = 0.0,
    max_tokens: int | None = None,
) -> Posterior:
    """The model's own law is searched, whatever the sampling; finished lines keep their place among the ``n``. With a
    ``length_penalty`` above 0 lines compare by log-probability / ((5 + length) / 6) ** penalty.
    """
    return await _beams(question, lm, ledger, n, 1, 0.0, length_penalty, max_tokens)


@method(
    "diverse-beam",
    family="decoding",
    summary="Beams in groups: a token that earlier groups chose at a position costs the later ones.",
    guarantee="bounded",
    promise=BOUND + "at most the model's own (length_penalty 0)",
    paper="Vijayakumar et al. 2016, Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models, "
    "arXiv:1610.02424",
    needs=("continuation", "log_probs", "top_log_probs", "token_ids"),
)
async def diverse_beam(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 8,
    groups: int = 4,
    penalty: float = 0.5,
    length_penalty: float = 0.0,
    max_tokens: int | None = None,
) -> Posterior:
    """n / ``groups`` lines a group; each earlier choice of a token at this position costs it ``penalty`` nats, in the
    choice only (Hamming diversity). A line that several groups hold is one branch.
    """
    return await _beams(question, lm, ledger, n, groups, penalty, length_penalty, max_tokens)


async def _beams(
    question: Question,
    lm: LM,
    ledger: Ledger,
    n: int,
    groups: int,
    penalty: float,
    length_penalty: float,
    max_tokens: int | None,
) -> Posterior:
    at_least(1, n=n, groups=groups, max_tokens=max_tokens)
    at_least(0, penalty=penalty, length_penalty=length_penalty)
    if length_penalty > MOST_PENALTY:
        raise UserError(f"length_penalty={length_penalty!r} must be at most {MOST_PENALTY}: above 1 length is all.")
    groups = min(groups, n)
    size, longest = n // groups, math.inf if max_tokens is None else max_tokens
    if n > MOST:
        raise UserError(f"n={n} lines: of a line's next tokens at most {MOST} can be told apart.")
    held = 0.0 if ledger.tokens_left == math.inf else HELD * ledger.tokens_left
    root = Hypothesis(await lm.root(question.prompt))
    live, finished = [[root] for _ in range(groups)], list[Hypothesis]()
    # Of a line's next tokens a group takes at most its size, and earlier groups made at most n - size of them dearer:
    # the n likeliest are enough.
    async with TokenTree(root.branch, ledger, peek=n) as tree:
        places = [size] * groups
        while any(live) and not ledger.exhausted and (finished or ledger.tokens_left > held):
            lines = list(dict.fromkeys(line for group in live for line in group))
            await tree.look(lines)
            finished += [line for line in lines if line.full]
            chosen = choose(live, places, penalty, length_penalty)
            made = await tree.take(step for steps in chosen for step in steps)
            if not made:
                break
            over = [line for line in made.values() if line.branch.ended or line.length >= longest]
            finished += over
            live = [[made[step] for step in steps if step in made and made[step] not in over] for steps in chosen]
            places = [p - sum(made.get(s) in over for s in steps) for p, steps in zip(places, chosen, strict=True)]
        rest = list(dict.fromkeys(line for group in live for line in group if not line.full))
        if rest and not ledger.exhausted and not any(question.answer_of(line.branch) for line in finished):
            best = max(rest, key=lambda line: line.score(length_penalty))
            rest.remove(best)
            finished.append(await tree.write_to_the_end(best, min(ledger.tokens_left, longest - best.length)))
    return _posterior(question, finished, length_penalty, "budget" if rest else "finished")


def choose(
    live: Sequence[Sequence[Hypothesis]], places: Sequence[int], penalty: float, length_penalty: float
) -> list[list[Step]]:
    """For each group the best steps after its lines, as many as it has places; groups choose in turn."""
    taken, chosen = Counter[int](), list[list[Step]]()

    def worth(step: Step) -> float:
        after = Hypothesis(step.line.branch, step.line.log_prob + step.log_prob, step.line.length + 1)
        return after.score(length_penalty) - penalty * taken[step.token]

    for lines, room in zip(live, places, strict=True):
        steps = [Step(line, token, log_prob) for line in lines for token, log_prob in line.law]
        best = sorted(steps, key=lambda step: -worth(step))[: max(0, room)]
        taken.update(step.token for step in best)
        chosen.append(best)
    return chosen


def _posterior(question: Question, finished: list[Hypothesis], length_penalty: float, stopped: str) -> Posterior:
    weights = {line.branch: line.score(length_penalty) for line in finished}
    for branch, weight in weights.items():
        branch.thought.value = weight
    found = weigh(question, list(weights), lambda branch: weights[branch])
    if length_penalty:
        return replace(best_of_each(found), stopped=stopped)
    unseen = 1.0 - math.fsum(math.exp(weight) for weight in weights.values())
    rest = log_sum([found.log_unassigned, math.log(unseen) if unseen > 1e-12 else -math.inf])
    return replace(found, log_unassigned=rest, stopped=stopped)
