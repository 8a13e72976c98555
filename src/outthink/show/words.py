"""What a posterior's figures mean, in words."""

from __future__ import annotations

import math

from outthink.core.posterior import Posterior
from outthink.core.question import Question


def verdict(question: Question, answer: str | None) -> bool | None:
    """Whether ``answer`` is right, by the question's exact checker; None where nobody knows."""
    return None if answer is None or question.check is None else bool(question.check(answer))


def confidence_words(posterior: Posterior) -> str:
    """What the confidence of ``posterior`` is a share of."""
    if posterior.best is None:
        return "no line reached an answer"
    agreeing = sum(c.answer == posterior.best for c in posterior.candidates)
    equal = len({c.log_weight for c in posterior.candidates}) == 1
    match posterior.method:
        case "greedy":
            return "the probability that the model gives its own greedy line"
        case "best-of-n":
            return "the share of the best line's score among the best lines of all answers"
        case "sample-until-verified" if posterior.stopped == "verified":
            return f"the verifier accepted it, after {_count(posterior.attempts, 'line')}"
        case "probability-vote":
            return f"its share of the weighted votes; {_agreement(agreeing, posterior.attempts)}"
        case _ if equal and posterior.attempts:
            return _agreement(agreeing, posterior.attempts)
        case _:
            return f"its share of the weight of {_count(posterior.attempts, 'line')}"


def evidence_words(posterior: Posterior) -> str | None:
    """What the evidence was estimated to be and how well it is known; None where it was not estimated."""
    if posterior.log_evidence is None:
        return None
    runs = _count(posterior.evidence_runs, "independent run")
    if posterior.evidence_cut:
        runs += f" ({posterior.evidence_cut} more, which the budget cut, left out: short lines count for too much)"
    if posterior.log_evidence == -math.inf:
        return f"log evidence: no line of {runs} had any weight"
    if posterior.log_evidence_se is None:
        why = "one run alone does" if posterior.evidence_runs < 2 else "runs that all agree do"
        return f"log evidence {posterior.log_evidence:.4g} nats, of {runs}; {why} not tell its error"
    error = f"standard error {posterior.log_evidence_se:.2g}"
    return f"log evidence {posterior.log_evidence:.4g} nats, {error}, of {runs}"


def stop_words(stopped: str, interrupted: bool = False) -> str | None:
    """Why the work ended, where that is worth telling; ``stopped`` as `Posterior` has it."""
    if interrupted:
        return "cut short by ctrl-C: this is the best so far"
    known = {
        "finished": None,
        "verified": None,  # its confidence says so
        "budget": "the budget ran out: this is the best so far",
        "nothing verified": "the verifier accepted no line: this is what most of them reach",
    }
    return known.get(stopped, stopped)


def _agreement(agreeing: int, attempts: int) -> str:
    if attempts == 1:
        return "the only line reaches it"
    return f"{agreeing} of {attempts} lines {'reaches' if agreeing == 1 else 'reach'} it"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
