"""Options that several commands share, and the reading of ``NAME=VALUE`` pairs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.console import err
from outthink.core.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from outthink.lm.model import Model
    from outthink.scheduling import Limits

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A directory in the Hugging Face format, a hub id, or a bundled model's name."),
]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.")]
DtypeOption = Annotated[str, typer.Option(help="What the weights compute in: auto (as stored), float32, bfloat16...")]
BackendOption = Annotated[
    str,
    typer.Option(help="What computes: cpu (compiled kernels), reference (plain torch), auto (the fastest there is)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else there.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]


def open_model(
    source: str | None, device: str, dtype: str, backend: str = "auto", limits: Limits | None = None
) -> Model:
    """Load a model and start its engine, with a spinner on the terminal; raises what `outthink.load` raises.

    What loading warns of is told on stderr, a line each.
    """
    with warnings.catch_warnings(record=True) as warned, err().status(f"loading {source or 'the bundled model'}"):
        warnings.simplefilter("always", UserWarning)
        from outthink.lm.model import bundled_models, load

        if source is None and not bundled_models():
            raise CheckpointError(
                "No model is bundled with this installation: name one with --model, a directory in the Hugging Face "
                "format or a hub id."
            )
        loaded = load(source, device=device, dtype=dtype, backend=backend, limits=limits)
    for message in dict.fromkeys(str(warning.message) for warning in warned if warning.category is UserWarning):
        err().print(Text(f"note: {message}", style="yellow"), soft_wrap=True)
    return loaded


def read_settings(pairs: Iterable[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``NAME=VALUE`` pairs, each of the type of its default (a tuple's with commas between).

    Names without a default are guessed at.

    Raises UserError for a pair that is none and for a value that is not of its default's type.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        name = name.replace("-", "_")
        if not (name and equals):
            raise UserError(f"Cannot read option {pair!r}: write NAME=VALUE, such as 'width=8'.")
        default = defaults.get(name)
        many = isinstance(default, tuple)
        read = tuple(_read_value(part.strip()) for part in value.split(",")) if many else _read_value(value)
        if default is not None and not _fits(read, default):
            raise UserError(f"Option {name}={value!r} must be a {_KIND.get(type(default), type(default).__name__)}.")
        settings[name] = read
    return settings


_KIND = {int: "whole number", float: "number", bool: "true or false", str: "word"}


def _read_value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
