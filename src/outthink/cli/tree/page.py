"""The page of one posterior: a template, a style, a script and the data, in one file that asks nothing of a network."""

from __future__ import annotations

import html
import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.resources import files
from typing import Any

import outthink
from outthink.cli.console import plain, printable
from outthink.cli.report import confidence_words, stop_words, verdict
from outthink.cli.tree.merge import passages
from outthink.cli.tree.spending import spending
from outthink.core.errors import UnknownNameError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.thought import Thought
from outthink.reason import STRATEGIES


def tree_page(posterior: Posterior, question: Question, facts: Mapping[str, Any] | None = None) -> str:
    """An HTML document that shows ``posterior``: the answers, the tree of reasoning behind them, the bill.

    ``facts`` may name the ``model``, ``budget``, ``options`` and so on, to be shown as they are. No text of a model or
    a user is ever markup in it: texts travel as JSON whose ``<``, ``>`` and ``&`` are escaped, and the script sets
    them as text; the document's own policy forbids all requests.
    """
    parts = {name: _read(name) for name in ("tree.html", "tree.css", "tree.js")}
    data = page_data(posterior, question, facts or {})
    filled = {
        "policy": policy(parts["tree.css"], parts["tree.js"]),
        "title": _title(f"{posterior.best or 'no answer'} · {_first_line(data['prompt'])}"),
        "style": parts["tree.css"],
        "script": parts["tree.js"],
        "data": script_json(data),
    }
    # Split first: what is filled in may itself hold something that looks like a placeholder.
    pieces = parts["tree.html"].split("%%")
    return "".join(filled[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def page_data(posterior: Posterior, question: Question, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows, as JSON values."""
    line = posterior.best_line
    winner = line.thought if line is not None else None
    shares = posterior.weights
    found = passages(posterior.tree, winner, lambda line: _answer(question, line))
    answers = {line["answer"] for passage in found for line in passage["lines"]} - {None}
    return {
        "prompt": _prompt_text(question),
        "best": posterior.best,
        "right": verdict(question, posterior.best),
        "confidence": posterior.confidence,
        "confidence_means": confidence_words(posterior),
        "entropy": posterior.entropy,
        "stopped": stop_words(posterior, interrupted=bool(facts.get("interrupted"))),
        "attempts": posterior.attempts,
        "answers": [{"answer": a, "share": share, "right": verdict(question, a)} for a, share in shares.items()],
        "unassigned": max(0.0, 1.0 - math.fsum(shares.values())),
        "method": _method(posterior.method),
        "bill": posterior.cost.to_json(),
        "passages": found,
        "checked": {answer: verdict(question, answer) for answer in sorted(answers)},
        "spending": _spending(posterior, winner),
        "facts": dict(facts),
        "version": outthink.__version__,
    }


def policy(style: str, script: str) -> str:
    """A content security policy under which this very style and script run and nothing else, and nothing is fetched."""
    digests = (b64encode(sha256(source.encode()).digest()).decode() for source in (style, script))
    return (
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'".format(
            *digests
        )
    )


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: ASCII, and without the characters that begin or end markup."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _title(text: str) -> str:
    """``text`` as the content of an element, without what UTF-8 cannot write."""
    return html.escape(printable(text).encode("utf-8", "replace").decode())


def _read(name: str) -> str:
    return files("outthink.cli.tree").joinpath(name).read_text("utf-8")


def _answer(question: Question, line: Thought) -> str | None:
    """What a line reached: what the strategy noted, else what can be read of a line that came to its end."""
    if line.answer is not None or line.finish != "stop":
        return line.answer
    return question.parse("".join(part.text for part in line.line()))


def _spending(posterior: Posterior, winner: Thought | None) -> list[dict[str, Any]]:
    """Tokens by what came of them; what no thought wrote is the prompt and the verifier's reading."""
    parts = spending(posterior.tree, winner)
    rest = posterior.cost.tokens - sum(tokens for _, tokens in parts)
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


def _first_line(text: str) -> str:
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")
