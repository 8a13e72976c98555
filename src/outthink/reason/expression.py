"""Strategies made of strategies, written as one word of a command: ``then(majority-vote(n=8), mcts, below=0.7)``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outthink.core.budget import Budget
from outthink.core.errors import UserError
from outthink.core.registry import Method
from outthink.lm.protocol import LM
from outthink.reason import STRATEGIES
from outthink.reason.combine import bind, ensemble, retry, split, then, within

COMBINATORS = ("ensemble", "retry", "split", "then", "within")
_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[(),=]|[^\s(),=]+)""")
FORMS = (
    "then(FIRST, SECOND, below=0.6, share=0.5), retry(ONE, times=3), ensemble(ONE, TWO, ...), "
    "split(ONE, 0.3, TWO, 0.7), within(ONE, share=0.5) or within(ONE, budget=2k)"
)


@dataclass
class _Call:
    """A name with what stands in its brackets: in order, and by name. Values are texts or calls."""

    name: str
    given: list[_Call | str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)


def is_expression(text: str) -> bool:
    """Whether ``text`` has brackets, and so is no plain name of a strategy."""
    return "(" in text


def read_strategy(text: str, open_model: Callable[[str], LM] | None = None) -> Method:
    """The strategy that ``text`` names: NAME, NAME(option=value, ...), or one of `FORMS`, whose members are such.

    Values with spaces or brackets stand in quotes.

    ``open_model`` opens options that are models by their name. Raises UserError, which says what is wrong, and
    UnknownNameError for a strategy that is not known.
    """
    tokens = _TOKEN.findall(text)
    call, rest = _read_call(tokens, text)
    if rest:
        raise UserError(f"Cannot read strategy {text!r}: {' '.join(rest)!r} is left over at its end.")
    return _make(call, open_model)


def _read_call(tokens: list[str], text: str) -> tuple[_Call, list[str]]:
    if not tokens or tokens[0] in "(),=":
        before = repr(tokens[0]) if tokens else "its end"
        raise UserError(f"Cannot read strategy {text!r}: a name was expected before {before}.")
    call, rest = _Call(tokens[0]), tokens[1:]
    if rest[:1] != ["("]:
        return call, rest
    rest = rest[1:]
    while rest[:1] != [")"]:
        if rest[1:2] == ["="]:
            if len(rest) < 3 or rest[2] in "(),=":
                raise UserError(f"Cannot read strategy {text!r}: {rest[0]}= has no value.")
            call.named[rest[0].replace("-", "_")] = rest[2]
            rest = rest[3:]
        else:
            member, rest = _read_call(rest, text)
            call.given.append(member if member.given or member.named or not _is_number(member.name) else member.name)
        if rest[:1] == [","]:
            rest = rest[1:]
        elif rest[:1] != [")"]:
            raise UserError(f"Cannot read strategy {text!r}: a bracket is not closed.")
    return call, rest[1:]


def _make(call: _Call, open_model: Callable[[str], LM] | None) -> Method:
    if call.name not in COMBINATORS:
        if call.given:
            raise UserError(f"Strategy '{call.name}' takes options by name, as in {call.name}(n=8).")
        method = STRATEGIES.get(call.name)
        options = {name: _value(value) for name, value in call.named.items()}
        for name in method.models:
            if name in options and open_model is not None:
                options[name] = open_model(str(options[name]))
        method.check_options(options)
        return bind(method, **options) if options else method
    members = [_make(part, open_model) for part in call.given if isinstance(part, _Call)]
    numbers = [float(part) for part in call.given if isinstance(part, str)]
    settings = {name: _value(value) for name, value in call.named.items()}
    if "budget" in settings:
        settings["budget"] = Budget(call.named["budget"])
    kinds = [isinstance(part, _Call) for part in call.given]
    if call.name == "split" and not settings and kinds == [True, False] * (len(kinds) // 2) and kinds:
        return split(*zip(members, numbers, strict=True))
    wanted: Mapping[str, tuple[int, set[str]]] = {
        "then": (2, {"below", "share"}),
        "retry": (1, {"times"}),
        "ensemble": (len(members), set()),
        "within": (1, {"share", "budget"}),
    }
    count, names = wanted.get(call.name, (-1, set()))
    if numbers or len(members) != count or settings.keys() - names:
        raise UserError(f"Cannot read '{call.name}(...)'. The ways to combine strategies are: {FORMS}.")
    make = {"then": then, "retry": retry, "ensemble": ensemble, "within": within}[call.name]
    return make(*members, **settings)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]*\.?[0-9]+", text) is not None


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return (text[1:-1] if quoted else text).replace("\\n", "\n")
