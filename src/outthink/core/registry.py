"""Registries of named things, made lazily; and the record that every method keeps of what it promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, Literal, TypeVar, get_args

from outthink.core.errors import UnknownNameError, UserError

T = TypeVar("T")

Guarantee = Literal["lossless", "unbiased", "consistent", "bounded", "heuristic"]
COUNTS = ("n", "width", "max_tokens")  # options that count something, wherever a method has them
GUARANTEES: tuple[str, ...] = get_args(Guarantee)


@dataclass(frozen=True)
class Method:
    """What a method is and promises, and where it comes from.

    ``guarantee``: `lossless` (the output law is exactly the reference's), `unbiased` (the stated estimate has the right
    expectation at every sample size), `consistent` (right in the limit of samples), `bounded` (a stated error bound
    holds), `heuristic` (measured only). ``promise`` says of what. ``models`` names the options that are language models
    beside the main one: `outthink.solve` opens those given by name, on the same bill. ``needs``: which of
    `outthink.lm.needs.NEEDS` it asks of a language model.
    """

    name: str
    family: str
    summary: str
    guarantee: Guarantee
    promise: str
    paper: str
    run: Callable[..., Any]
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The options that ``run`` takes by keyword, with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise UserError for an option that the method has not, or of the wrong type, or below its least value."""
        known = self.options
        if unknown := sorted(options.keys() - known.keys()):
            has = ", ".join(known) or "none"
            raise UserError(f"Strategy '{self.name}' has no option {', '.join(unknown)}; it has: {has}.")
        for name, value in options.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if name in COUNTS and value is not None and not (whole and value >= 1):
                raise UserError(f"{name}={value!r} must be a whole number of at least 1.")

    def __post_init__(self) -> None:
        if self.guarantee not in GUARANTEES:
            raise ValueError(f"guarantee {self.guarantee!r} of {self.name} is none of {GUARANTEES}")


def method(
    name: str,
    *,
    family: str,
    summary: str,
    guarantee: Guarantee,
    promise: str,
    paper: str,
    models: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Method]:
    """Make a `Method` of the decorated function."""
    return lambda run: Method(name, family, summary, guarantee, promise, paper, run, models, needs)


class Registry(Generic[T]):
    """Named things by ``"module:attribute"``, imported when asked for; others join by an entry-point group."""

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind, self.group = kind, group
        self._paths = dict(builtin)

    def names(self) -> list[str]:
        """Every known name, those of installed plugins included."""
        return sorted({*self._paths, *(e.name for e in entry_points(group=self.group))})

    def get(self, name: str) -> T:
        """The thing called ``name``; raises UnknownNameError, which lists the known names."""
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            return getattr(import_module(module), attribute)
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return entry.load()
        raise UnknownNameError(self.kind, name, self.names())

    def __iter__(self) -> Iterator[T]:
        return (self.get(name) for name in self.names())
