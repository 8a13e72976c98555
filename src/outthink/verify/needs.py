"""What a verifier needs of the model whose lines it judges, that of its parts included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from outthink.core.errors import CapabilityError
from outthink.core.registry import Method
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM
from outthink.verify.protocol import Verifier

_PARTS = ("part", "process", "outcome")


def with_parts(verifier: Verifier) -> Iterator[Verifier]:
    """The verifier, and all those that it is composed of."""
    yield verifier
    for part in (
        *getattr(verifier, "parts", ()),
        *(getattr(verifier, name) for name in _PARTS if hasattr(verifier, name)),
    ):
        yield from with_parts(part)


def needs_of(verifier: Verifier) -> frozenset[str]:
    """The ``needs`` of a verifier, where it has any, and of those that it is composed of."""
    return frozenset().union(*(getattr(part, "needs", ()) for part in with_parts(verifier)))


def is_relative(verifier: Verifier) -> bool:
    """Whether it, or a part of it, compares the lines that it is given with each other, so that only what is scored
    together can be compared.
    """
    return any(getattr(part, "relative", False) for part in with_parts(verifier))


def refuse_relative(verifier: Verifier) -> None:
    """Raise CapabilityError for a verifier that compares lines with each other: to judge lines as they come."""
    if is_relative(verifier):
        raise CapabilityError(
            f"The verifier '{verifier.name}' compares finished lines with each other, and says nothing of lines that "
            "are judged one after another: use it with best-of-n or weighted-vote, or choose another verifier."
        )


def check_model(lm: LM, method: Method, verifier: Verifier | None, options: Mapping[str, Any]) -> None:
    """Raise CapabilityError where ``lm`` does not offer what the method or the verifier needs, where the method lacks
    another model, or where it needs a verifier that can accept a line and this is none.
    """
    check_needs(method.needs, lm, f"The strategy '{method.name}'")
    check_parts(method, verifier, options)
    if verifier is not None:
        check_verifier(lm, verifier)


def check_parts(method: Method, verifier: Verifier | None, options: Mapping[str, Any]) -> None:
    """Raise CapabilityError where the method lacks another model, or a verifier that can accept a line."""
    for name in method.models:
        if options.get(name) is None:
            raise CapabilityError(
                f"{method.name} needs another model: name it, as in -o {name}=outthink-s, or in the "
                f"brackets of the part that asks it, as in NAME({name}=outthink-s)."
            )
    if method.accepting and (verifier is None or not verifier.accepts(0.0)):  # 0 is the log-weight of certainty
        raise CapabilityError(
            f"{method.name} needs a verifier that can accept a line, and "
            f"{'none' if verifier is None else verifier.name} cannot: give one, such as 'exact'."
        )


def check_verifier(lm: LM, verifier: Verifier) -> None:
    """Raise CapabilityError where ``lm`` does not offer what the verifier needs."""
    check_needs(needs_of(verifier), lm, f"The verifier '{verifier.name}'")
