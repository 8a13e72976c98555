"""The page of one posterior: a template, styles, scripts and the data, in one file that asks nothing of a network."""

from __future__ import annotations

import html
import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.show.record import Record, read_record, record_of
from outthink.show.view import view_of

ASSETS = Path(__file__).parent / "assets"
STYLES = ("theme.css", "view.css")
SCRIPTS = ("dom.js", "tree.js", "summary.js", "river.js", "outline.js", "view.js", "alone.js")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w-]+\.js)";\n', re.MULTILINE)


def tree_page(posterior: Posterior, question: Question, facts: Mapping[str, Any] | None = None) -> str:
    """An HTML document that shows ``posterior``: the answers, the tree of reasoning behind them, the bill.

    ``facts`` may name the ``model``, ``budget``, ``options`` and so on, to be shown as they are.
    """
    return document(page_data(posterior, question, facts or {}))


def page_data(posterior: Posterior, question: Question, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows, as JSON values."""
    line = posterior.best_line
    record = Record(record_of(posterior), posterior.tree, None if line is None else line.thought)
    return view_of(record, question, facts)


def recorded_page(told: Mapping[str, Any], question: Question, facts: Mapping[str, Any]) -> str:
    """The same document, of what `record_of` wrote."""
    return document(view_of(read_record(told), question, facts))


def document(view: Mapping[str, Any]) -> str:
    """The document that draws ``view``.

    No text of a model or a user is ever markup in it: texts travel as JSON whose ``<``, ``>`` and ``&`` are escaped,
    and the script sets them as text; the document's own policy forbids all requests.
    """
    style, script = "\n".join(map(_read, STYLES)), bundle(SCRIPTS)
    filled = {
        "policy": policy(style, script),
        "title": _title(f"{view['best'] or 'no answer'} · {_first_line(view['prompt'])}"),
        "style": style,
        "script": script,
        "data": script_json(view),
    }
    # Split first: what is filled in may itself hold something that looks like a placeholder.
    pieces = _read("tree.html").split("%%")
    return "".join(filled[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def bundle(names: tuple[str, ...]) -> str:
    """Modules of ``assets/`` as one script, each after those that it imports; their names share one scope.

    Raises ValueError where one imports what does not come before it.
    """
    parts: list[str] = []
    for number, name in enumerate(names):
        source = _read(name)
        if missing := set(_IMPORT.findall(source)) - set(names[:number]):
            raise ValueError(f"{name} imports {', '.join(sorted(missing))}, which must come before it in the bundle.")
        parts.append(re.sub(r"^export ", "", _IMPORT.sub("", source), flags=re.MULTILINE))
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


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
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers that are not finite become None, other objects their text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(v) for v in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _title(text: str) -> str:
    """``text`` as the content of an element, without control characters and what UTF-8 cannot write."""
    return html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode())


def _read(name: str) -> str:
    return ASSETS.joinpath(name).read_text("utf-8")


def _first_line(text: str) -> str:
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")
