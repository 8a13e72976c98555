"""Potentials that have a name, so that a command can say them: ``matches:REGEX``, ``avoids:REGEX``, ``brief:NATS``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from outthink.core.errors import PluginError, UserError
from outthink.core.registry import Registry
from outthink.posterior.potential import Potential, Prefix


class Matches:
    """0 for a whole line in whose text the regular expression is found, -inf for any other whole line.

    Of unfinished lines it says nothing: whether they will match is what a twist forecasts. Raises UserError for an
    expression that cannot be read.
    """

    def __init__(self, expression: str) -> None:
        self.expression = _compiled("matches", expression)

    def log_potential(self, prefix: Prefix) -> float:
        """See `Potential.log_potential`."""
        return 0.0 if not prefix.whole or self.expression.search(prefix.text) else -math.inf


class Avoids:
    """-inf for every text in which the regular expression is found, 0 for any other.

    What was written stays written, so that a line is ruled out as soon as it is found. Raises UserError for an
    expression that cannot be read.
    """

    def __init__(self, expression: str) -> None:
        self.expression = _compiled("avoids", expression)

    def log_potential(self, prefix: Prefix) -> float:
        """See `Potential.log_potential`."""
        return -math.inf if self.expression.search(prefix.text) else 0.0


class Brief:
    """Every token costs so many nats. Raises UserError for a price that is not a finite number of at least 0."""

    def __init__(self, nats: str) -> None:
        try:
            self.nats = float(nats)
        except ValueError:
            self.nats = math.nan
        if not 0 <= self.nats < math.inf:
            raise UserError(f"brief:{nats}: say what a token costs in nats, such as brief:0.1.")

    def log_potential(self, prefix: Prefix) -> float:
        """See `Potential.log_potential`."""
        return -self.nats * len(prefix.tokens)


def check_maker(name: str, found: Any) -> None:
    """Raise PluginError unless ``found`` can be called, with what stands after the colon, to make a `Potential`."""
    if not callable(found):
        raise PluginError(f"{name} is nothing that makes a potential: it must take the text after the colon")


POTENTIALS: Registry[Callable[[str], Potential]] = Registry(
    "potential",
    "outthink.potentials",
    {
        "avoids": "outthink.posterior.named:Avoids",
        "brief": "outthink.posterior.named:Brief",
        "matches": "outthink.posterior.named:Matches",
    },
    check_maker,
)


def open_potential(potential: Potential | str) -> Potential:
    """The potential that ``NAME:ARGUMENT`` asks for; one that is a `Potential` already as it is.

    Raises UnknownNameError for a name that is not known, and UserError for an argument that cannot be used.
    """
    if not isinstance(potential, str):
        return potential
    name, _, argument = potential.partition(":")
    return POTENTIALS.get(name)(argument)


def _compiled(name: str, expression: str) -> re.Pattern[str]:
    if not expression:
        raise UserError(f"{name}: say after a colon which regular expression, such as {name}:\\d+.")
    try:
        return re.compile(expression)
    except re.error as error:
        raise UserError(f"{name}:{expression} is no regular expression: {error}.") from error
