"""Verifiers made of verifiers, written as one word of a command: ``product(prm, likelihood)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outthink.core.calls import Call
from outthink.core.errors import UserError
from outthink.verify.compose import Mixture, Product, Staged, Threshold
from outthink.verify.protocol import Verifier

FORMS = (
    "product(ONE, ANOTHER), product(ONE, 1, ANOTHER, 0.5) with powers, mixture(ONE, ANOTHER), "
    "mixture(ONE, 0.7, ANOTHER, 0.3) with shares, threshold(ONE, at=-2, accept=-0.1, hard=false) or "
    "staged(OF_STEPS, OF_WHOLE_LINES)"
)
_COMPOSERS: dict[str, Callable[..., Verifier]] = {
    "mixture": Mixture,
    "product": Product,
    "staged": Staged,
    "threshold": Threshold,
}


def composes(call: Call) -> bool:
    """Whether ``call`` is one of `FORMS`, rather than a verifier's name."""
    return call.name in _COMPOSERS


def composed(call: Call, parts: Sequence[Verifier]) -> Verifier:
    """The verifier that ``call`` makes of its members, opened as ``parts``. Raises UserError for one that cannot be."""
    settings, numbers = call.settings, call.numbers
    match call.name, len(parts):
        case "product", count if count and not settings and (call.pairs or not numbers):
            return Product(*parts, powers=numbers or None)
        case "mixture", count if count and not settings and (call.pairs or not numbers):
            return Mixture(*parts, shares=numbers or None)
        case "staged", 2 if not settings and not numbers:
            return Staged(parts[0], parts[1])
        case "threshold", 1 if not numbers and settings.keys() <= {"at", "accept", "hard"}:
            if all(isinstance(value, bool) == (name == "hard") for name, value in settings.items()) and not any(
                isinstance(value, str | None) for value in settings.values()
            ):
                return Threshold(parts[0], **settings)
    raise UserError(f"Cannot read '{call.name}(...)'. The ways to compose verifiers are: {FORMS}.")
