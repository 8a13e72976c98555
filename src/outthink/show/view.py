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
        **_drawn(question, told["method"], told["weights"], record.tree, record.winner, told["cost"], facts),
    }


def live_view(
    tree: Thought, bill: Bill, fraction: float, question: Question, method: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A search that still grows: the shares are those of the lines that have ended, before the strategy weighs them.

    ``fraction`` of its budget is spent.
    """
    found: Counter[str] = Counter()
    for thought in tree.walk():
        if not thought.children and (answer := _answer(question, thought)) is not None:
            found[answer] += 1
    total = found.total()
    shares = {answer: count / total for answer, count in found.most_common()}
    means = f"of {total} line{'' if total == 1 else 's'} that ended so far" if total else "no line has ended yet"
    return {
        "live": True,
        "fraction": fraction,
        "confidence_means": means,
        "entropy": None,
        "evidence": None,
        "stopped": None,
        "attempts": total,
        **_drawn(question, method, shares, tree, None, bill.to_json(), facts),
    }


def _drawn(
    question: Question,
    method: str,
    shares: Mapping[str, float],
    tree: Thought,
    winner: Thought | None,
    bill: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What both have in common. JSON keeps no order of keys that look like numbers, so answers are a list."""
    found = passages(tree, winner, lambda line: _answer(question, line))
    best = max(shares, key=lambda answer: shares[answer], default=None)
    answers = {line["answer"] for passage in found for line in passage["lines"]} - {None}
    return {
        "prompt": _prompt_text(question),
        "best": best,
        "right": verdict(question, best),
        "confidence": shares[best] if best is not None else 0.0,
        "answers": [{"answer": a, "share": share, "right": verdict(question, a)} for a, share in shares.items()],
        "unassigned": max(0.0, 1.0 - math.fsum(shares.values())),
        "method": _method(method),
        "bill": dict(bill),
        "passages": [{**passage, "lines": condensed(passage["lines"])} for passage in found],
        "checked": {answer: verdict(question, answer) for answer in sorted(answers)},
        "spending": _spending(tree, winner, bill["tokens"]),
        "facts": dict(facts),
        "version": outthink.__version__,
    }


def _answer(question: Question, line: Thought) -> str | None:
    """What a line reached: what the strategy noted, else what can be read of a line that came to its end."""
    if line.answer is not None or line.finish != "stop":
        return line.answer
    return question.parse("".join(part.text for part in line.line()))


def _spending(tree: Thought, winner: Thought | None, total: int) -> list[dict[str, Any]]:
    """Tokens by what came of them; what no thought wrote is the prompt and the verifier's reading."""
    parts = spending(tree, winner)
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
