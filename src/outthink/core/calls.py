"""Names with brackets, as a word of a command says them: ``then(majority-vote(n=8), mcts, below=0.7)``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from outthink.core.errors import UserError

_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[(),=]|[^\s(),=]+)""")


@dataclass
class Call:
    """A name with what stands in its brackets: in order, calls and texts that spell numbers; and texts by name."""

    name: str
    given: list[Call | str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> list[Call]:
        """The calls that stand in the brackets."""
        return [part for part in self.given if isinstance(part, Call)]

    @property
    def numbers(self) -> list[float]:
        """The numbers that stand in the brackets without a name."""
        return [float(part) for part in self.given if isinstance(part, str)]

    @property
    def settings(self) -> dict[str, Any]:
        """What is said by name, as values."""
        return {name: spelled(value) for name, value in self.named.items()}

    @property
    def pairs(self) -> bool:
        """Whether a number follows each member, and there is nothing else."""
        kinds = [isinstance(part, Call) for part in self.given]
        return bool(kinds) and kinds == [True, False] * (len(kinds) // 2) and not self.named


def read_call(text: str, what: str) -> Call:
    """NAME, or NAME(MEMBER, 0.5, name=value, ...), whose members are such; values with spaces or brackets stand in
    quotes. Raises UserError, which says what is wrong with this ``what``.
    """
    call, rest = _read(_TOKEN.findall(text), f"Cannot read {what} {text!r}")
    if rest:
        raise UserError(f"Cannot read {what} {text!r}: {' '.join(rest)!r} is left over at its end.")
    return call


def spelled(text: str) -> Any:
    """The truth value, None, whole number or number that ``text`` spells, or else the text itself, out of quotes."""
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return (text[1:-1] if quoted else text).replace("\\n", "\n")


def _read(tokens: list[str], failed: str) -> tuple[Call, list[str]]:
    if not tokens or tokens[0] in "(),=":
        before = repr(tokens[0]) if tokens else "its end"
        raise UserError(f"{failed}: a name was expected before {before}.")
    call, rest = Call(tokens[0]), tokens[1:]
    if rest[:1] != ["("]:
        return call, rest
    rest = rest[1:]
    while rest[:1] != [")"]:
        if rest[1:2] == ["="]:
            if len(rest) < 3 or rest[2] in "(),=":
                raise UserError(f"{failed}: {rest[0]}= has no value.")
            call.named[rest[0].replace("-", "_")] = rest[2]
            rest = rest[3:]
        else:
            member, rest = _read(rest, failed)
            number = not member.given and not member.named and re.fullmatch(r"[0-9]*\.?[0-9]+", member.name)
            call.given.append(member.name if number else member)
        if rest[:1] == [","]:
            rest = rest[1:]
        elif rest[:1] != [")"]:
            raise UserError(f"{failed}: a bracket is not closed.")
    return call, rest[1:]
