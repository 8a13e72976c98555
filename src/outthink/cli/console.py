"""Where commands write: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from outthink.core.errors import PromptError, UserError

# All but line feed and tab; and the marks that reorder the text around them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def out() -> Console:
    """The console of results. Without a terminal it is plain text, wide enough not to break ordinary tables."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def err() -> Console:
    """The console of progress and complaints."""
    return Console(stderr=True, highlight=False)


def printable(text: str) -> str:
    """``text`` with control characters made visible: what a model writes must not drive the terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def complain(message: str) -> None:
    """One line on stderr."""
    line = Text.assemble(("error: ", "bold red"), printable(" ".join(message.split())))
    err().print(line, soft_wrap=True)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers that are not finite become None, mappings and sequences are copied."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def print_json(value: Any) -> None:
    """``value`` alone on stdout, indented; numbers that are not finite as null."""
    # Escaped to ASCII: a model's text may hold lone surrogates, which no encoding of stdout can write.
    sys.stdout.write(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house style."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), expand=False)
    for column in columns:
        made.add_column(column, header_style="dim", overflow="fold")
    return made


def read_text(argument: str, what: str) -> str:
    """The argument itself, or all of stdin for ``-``. Raises PromptError where it is empty or no UTF-8."""
    if argument == "-":
        try:
            argument = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise PromptError(f"The {what} on stdin is not valid UTF-8 text.") from error
    if not argument.strip():
        raise PromptError(f"The {what} is empty: write it in quotes, or pipe it in and give '-'.")
    return argument


def output_file(path: Path) -> Path:
    """``path``, where a file can be written there; raises UserError before any work is done where it cannot."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file to write.")
    if not path.parent.is_dir():
        raise UserError(f"There is no directory {path.parent} to write {path.name} into; make it first.")
    return path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; raises UserError where the system refuses."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
