"""Registries of named things, made lazily; and the record that every method keeps of what it promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar, get_args

from outthink.core.errors import PluginError, UnknownNameError, UserError

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
    beside the main one, without which it cannot run: `outthink.solve` opens those given by name, on the same bill.
    ``needs``: which of `outthink.lm.needs.NEEDS` it asks of a language model. ``accepting``: it needs a verifier that
    can accept a line. ``confidence``: the option, if there is one, that says how sure it must be to stop early, as a
    probability; a greater one stops no earlier.
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
    accepting: bool = False
    confidence: str | None = None

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
            wanted = "str | None" if name in self.models else self._annotation(name)
            if not _fits(value, wanted):
                raise UserError(f"{name}={value!r} is of the wrong kind: strategy '{self.name}' takes {wanted} there.")

    def _annotation(self, name: str) -> str:
        found = inspect.signature(self.run).parameters[name].annotation
        return found if isinstance(found, str) else getattr(found, "__name__", str(found))

    def __post_init__(self) -> None:
        if self.guarantee not in GUARANTEES:
            raise ValueError(f"guarantee {self.guarantee!r} of {self.name} is none of {GUARANTEES}")


def _fits(value: Any, annotation: str) -> bool:
    """Whether a number, text, truth value or None may stand where ``annotation`` does; other values pass."""
    if not isinstance(value, int | float | str | None) or annotation.startswith(("_empty", "Any", "Literal")):
        return True
    kinds = {part.strip() for part in annotation.split("|")}
    if isinstance(value, str):
        return "str" in kinds or annotation.startswith(("tuple[", "Sequence["))
    kind = "None" if value is None else type(value).__name__
    return kind in kinds or (kind == "int" and "float" in kinds)


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
    accepting: bool = False,
    confidence: str | None = None,
) -> Callable[[Callable[..., Any]], Method]:
    """Make a `Method` of the decorated function."""
    return lambda run: Method(
        name, family, summary, guarantee, promise, paper, run, models, needs, accepting, confidence
    )


def check_method(name: str, found: Any) -> None:
    """Raise PluginError unless ``found`` is a strategy called ``name``: a `Method` that can be run as one."""
    if not isinstance(found, Method):
        raise PluginError("it is no strategy: decorate an async function with outthink.method")
    if found.name != name:
        raise PluginError(f"its decorator calls it '{found.name}'; the entry point must have the same name")
    parameters = list(inspect.signature(found.run).parameters.values())
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    others = [p for p in parameters if p not in plain]
    options = all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in others)
    if not inspect.iscoroutinefunction(found.run) or len(plain) != 4 or not options:
        raise PluginError(
            f"its signature is {found.run.__name__}{inspect.signature(found.run)}; a strategy is an async function of "
            "(question, lm, verifier, ledger), and its options come after a * with defaults"
        )
    if found.confidence is not None and found.confidence not in found.options:
        raise PluginError(f"its confidence is called '{found.confidence}', and it has no option of that name")


class Registry(Generic[T]):
    """Named things by ``"module:attribute"``, imported when asked for; others join by an entry-point group.

    ``check(name, thing)`` raises PluginError for a plugin's that is not what it should be.
    """

    def __init__(
        self, kind: str, group: str, builtin: dict[str, str], check: Callable[[str, Any], None] | None = None
    ) -> None:
        self.kind, self.group = kind, group
        self._paths, self._check = dict(builtin), check

    def names(self) -> list[str]:
        """Every known name, those of installed plugins included; nothing is imported."""
        return sorted({*self._paths, *(e.name for e in entry_points(group=self.group))})

    def get(self, name: str) -> T:
        """The thing called ``name``. Raises UnknownNameError, which lists the known names, and PluginError for a plugin
        that is broken or has the name of another.
        """
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            return getattr(import_module(module), attribute)
        entries = [entry for entry in entry_points(group=self.group) if entry.name == name]
        if not entries:
            raise UnknownNameError(self.kind, name, self.names())
        if len(entries) > 1:
            both = " and ".join(_origin(entry) for entry in entries)
            raise PluginError(f"The {self.kind} '{name}' comes from {both}: uninstall one of them, or rename it.")
        return self._load(entries[0])

    def usable(self) -> list[str]:
        """The names that `get` has something for; plugins are imported."""
        return [name for name in self.names() if name in self._paths or self._fault(name) is None]

    def faults(self) -> list[str]:
        """What is wrong with installed plugins, a sentence each."""
        plugins = list(dict.fromkeys(entry.name for entry in entry_points(group=self.group)))
        taken = [
            f"The plugin {_origin(entry)} is left out: '{entry.name}' is the name of a {self.kind} of Outthink's own; "
            "its author must rename it."
            for entry in entry_points(group=self.group)
            if entry.name in self._paths
        ]
        return taken + [fault for name in plugins if name not in self._paths and (fault := self._fault(name))]

    def __iter__(self) -> Iterator[T]:
        return (self.get(name) for name in self.usable())

    def _fault(self, name: str) -> str | None:
        try:
            self.get(name)
        except PluginError as error:
            return str(error)
        return None

    def _load(self, entry: EntryPoint) -> T:
        try:
            found = entry.load()
            if self._check is not None:
                self._check(entry.name, found)
        except Exception as error:
            what = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            raise PluginError(
                f"The {self.kind} '{entry.name}' of the plugin {_origin(entry)} cannot be used: {what}."
            ) from error
        return found


def _origin(entry: EntryPoint) -> str:
    name = "an unnamed distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{name} ({entry.value})"
