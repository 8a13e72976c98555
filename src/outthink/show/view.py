"""All that is drawn of a search, as JSON values: of one that is over, and of one that still grows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import outthink
from outthink.core.budget import Bill
from outthink.core.errors import UnknownNameError
from outthink.core.question import Question
from outthink.core.thought import Thought
from outthink.reason import STRATEGIES
from outthink.show.merge import condensed, passages
from outthink.show.record import Record
from outthink.show.spending import spending
from outthink.show.words import stop_words, verdict


def view_of(record: Record, question: Question, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A posterior as it is drawn. ``facts`` may name the ``model``, ``budget``, ``options`` and so on."""
    told = record.told
    evidence = {"value": told.get("log_evidence"), "se": told.get("log_evidence_se"), "runs": told.get("evidence_runs")}
    return {
        "live": False,
        "confidence_means": told.get("confidence_means", f"its share of the weight of {told['attempts']} lines"),
        "entropy": told["entropy"],
        "evidence": evidence if evidence["value"] is not None else None,
        "stopped": stop_words(told["stopped"], interrupted=bool(facts.get("interrupted"))),
        "attempts": told["attempts"],
        **_drawn(question, record, _answers(question, record.tree), facts),
    }


def live_view(
    tree: Thought, bill: Bill, fraction: float, question: Question, method: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A search that still grows: the shares are those of the lines that have ended, before the strategy weighs them.

    ``fraction`` of its budget is spent.
    """
    answers = _answers(question, tree)
    found = Counter(answer for answer in answers.values() if answer is not None)
    total = found.total()
    shares = {answer: count / total for answer, count in found.most_common()}
    record = Record({"method": method, "weights": shares, "cost": bill.to_json()}, tree, None)
    means = f"of {total} line{'' if total == 1 else 's'} that ended so far" if total else "no line has ended yet"
    return {
        "live": True,
        "fraction": fraction,
        "confidence_means": means,
        "entropy": None,
        "evidence": None,
        "stopped": None,
        "attempts": total,
        **_drawn(question, record, answers, facts),
    }


def _drawn(
    question: Question, record: Record, reached: Mapping[Thought, str | None], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What both have in common. JSON keeps no order of keys that look like numbers, so answers are a list."""
    shares, bill = record.told["weights"], record.told["cost"]
    found = passages(record.tree, record.winner, reached.__getitem__)
    best = max(shares, key=lambda answer: shares[answer], default=None)
    answers = {line["answer"] for passage in found for line in passage["lines"]} - {None}
    return {
        "prompt": _prompt_text(question),
        "best": best,
        "right": verdict(question, best),
        "confidence": shares[best] if best is not None else 0.0,
        "answers": [{"answer": a, "share": share, "right": verdict(question, a)} for a, share in shares.items()],
        "unassigned": max(0.0, 1.0 - math.fsum(shares.values())),
        "method": _method(record.told["method"]),
        "bill": dict(bill),
        "passages": [{**passage, "lines": condensed(passage["lines"])} for passage in found],
        "checked": {answer: verdict(question, answer) for answer in sorted(answers)},
        "spending": _spending(record, bill["tokens"]),
        "facts": dict(facts),
        "version": outthink.__version__,
    }


def _answers(question: Question, tree: Thought) -> dict[Thought, str | None]:
    """What each line reached: what the strategy noted, else what can be read of a line that came to its end."""
    found: dict[Thought, str | None] = {}
    for end in tree.walk():
        if not end.children:
            read = end.answer is None and end.finish == "stop"
            found[end] = question.parse("".join(part.text for part in end.line())) if read else end.answer
    return found


def _spending(record: Record, total: int) -> list[dict[str, Any]]:
    """Tokens by what came of them; what no thought wrote is the prompt and the verifier's reading."""
    parts = spending(record.tree, record.winner)
    rest = total - sum(tokens for _, tokens in parts)
    return [{"what": what, "tokens": tokens} for what, tokens in [*parts, ("prompt and verifying", rest)] if tokens > 0]


def _method(name: str) -> dict[str, Any]:
    """What the registry says of a strategy; its name alone where it is none of the registered ones."""
    try:
        method = STRATEGIES.get(name)
    except UnknownNameError:
        return {"name": name}
    return {k: v for k, v in asdict(method).items() if k != "run"}


def _prompt_text(question: Question) -> str:
    """The prompt as a person reads it: of a chat, the user's and system's messages."""
    if isinstance(question.prompt, str):
        return question.prompt
    parts = list(question.prompt)
    if parts and all(isinstance(part, Mapping) for part in parts):
        return "\n\n".join(str(part.get("content", "")) for part in parts if isinstance(part, Mapping))
    return f"{len(parts)} tokens"
