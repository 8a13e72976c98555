"""From finished lines to a posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.lm.protocol import Branch


def weigh(
    question: Question, lines: Sequence[Branch], log_weight: Callable[[Branch], float] = lambda _: 0.0
) -> Posterior:
    """The posterior in which each line weighs exp(``log_weight``); lines without an answer weigh as unassigned.

    Writes answer, weight and fate into the lines' thoughts.
    """
    candidates, lost = [], []
    for line in lines:
        answer, weight = question.answer_of(line), log_weight(line)
        line.thought.answer, line.thought.weight = answer, math.exp(min(weight, 0.0))
        if answer is None:
            lost.append(weight)
            line.thought.fate = "cut by the budget" if line.finish == "budget" else "no answer"
        else:
            candidates.append(Candidate(answer, weight, line.full_text, line.thought))
    posterior = Posterior(tuple(candidates), log_unassigned=log_sum(lost), attempts=len(lines))
    best = posterior.best
    for candidate in candidates:
        if candidate.thought is not None:
            chosen = candidate.answer == best and candidate.log_weight > -math.inf
            otherwise = "outvoted" if candidate.log_weight > -math.inf else "rejected by the verifier"
            candidate.thought.fate = "chosen" if chosen else otherwise
    return posterior


def line_log_prob(line: Branch) -> float:
    """The model's log-probability of everything written after the prompt, in nats."""
    total, at = 0.0, line
    while at is not None:
        total += math.fsum(at.log_probs)
        at = at.parent
    return total


def log_sum(log_weights: Iterable[float]) -> float:
    """log of the sum of exp; -inf for none."""
    values = list(log_weights)
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(v - top) for v in values))
