"""Strategies made of strategies, written as one word of a command: ``then(majority-vote(n=8), mcts, below=0.7)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from outthink.core.budget import Budget
from outthink.core.calls import Call, read_call
from outthink.core.errors import UserError
from outthink.core.registry import Method
from outthink.lm.protocol import LM
from outthink.reason import STRATEGIES
from outthink.reason.combine import bind, ensemble, retry, split, then, within

ALIASES = {"vote": "majority-vote"}  # short names
COMBINATORS = ("ensemble", "retry", "split", "then", "within")
FORMS = (
    "then(FIRST, SECOND, below=0.6, share=0.5), retry(ONE, times=3), ensemble(ONE, TWO, ...), "
    "split(ONE, 0.3, TWO, 0.7), within(ONE, share=0.5) or within(ONE, budget=2k)"
)


def is_expression(text: str) -> bool:
    """Whether ``text`` has brackets, and so is no plain name of a strategy."""
    return "(" in text


def read_strategy(text: str, open_model: Callable[[str], LM] | None = None) -> Method:
    """The strategy that ``text`` names: NAME, NAME(option=value, ...), or one of `FORMS`, whose members are such.

    Values with spaces or brackets stand in quotes.

    ``open_model`` opens options that are models by their name. Raises UserError, which says what is wrong, and
    UnknownNameError for a strategy that is not known.
    """
    return _make(read_call(text, "strategy"), open_model)


def _make(call: Call, open_model: Callable[[str], LM] | None) -> Method:
    if call.name not in COMBINATORS:
        if call.given:
            raise UserError(f"Strategy '{call.name}' takes options by name, as in {call.name}(n=8).")
        method = STRATEGIES.get(ALIASES.get(call.name, call.name))
        options = call.settings
        for name in method.models:
            if name in options and open_model is not None:
                options[name] = open_model(str(options[name]))
        method.check_options(options)
        return bind(method, **options) if options else method
    members = [_make(part, open_model) for part in call.members]
    settings = call.settings
    if "budget" in settings:
        settings["budget"] = Budget(call.named["budget"])
    if call.name == "split" and call.pairs:
        return split(*zip(members, call.numbers, strict=True))
    wanted: Mapping[str, tuple[int, set[str]]] = {
        "then": (2, {"below", "share"}),
        "retry": (1, {"times"}),
        "ensemble": (len(members), set()),
        "within": (1, {"share", "budget"}),
    }
    count, names = wanted.get(call.name, (-1, set()))
    if call.numbers or len(members) != count or settings.keys() - names:
        raise UserError(f"Cannot read '{call.name}(...)'. The ways to combine strategies are: {FORMS}.")
    make = {"then": then, "retry": retry, "ensemble": ensemble, "within": within}[call.name]
    return make(*members, **settings)
