"""A problem as a formula: what must hold of an answer, for a solver to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

Values = Mapping[str, bool | int | Fraction]
"""Constants of a formula and what an answer says that they are."""


@dataclass(frozen=True)
class Smt:
    """``formula``: declarations and assertions in SMT-LIB 2. An answer is right where they can hold together with what
    it says: ``values`` reads that from the text of an answer, None where it says nothing that can be checked.

    ``stated``, if given, reads what an unfinished solution has committed itself to so far; it is ruled out where that
    cannot be. Both return constants that the formula declares.
    """

    formula: str
    values: Callable[[str], Values | None]
    stated: Callable[[str], Values | None] | None = None

    def with_values(self, values: Values) -> str:
        """The formula and an assertion for each value."""
        return self.formula + "".join(f"\n(assert (= |{name}| {_literal(value)}))" for name, value in values.items())


def _literal(value: bool | int | Fraction) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return f"(/ {_literal(value.numerator)} {value.denominator})"
    return str(value) if value >= 0 else f"(- {-value})"
