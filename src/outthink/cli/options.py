"""Options that several commands share, and the reading of ``NAME=VALUE`` pairs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.console import err
from outthink.core.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from outthink.core.registry import Registry
    from outthink.lm.model import Model
    from outthink.lm.source import LanguageModel
    from outthink.scheduling import Limits

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A directory in the Hugging Face format, a hub id, or a bundled model's name; with --base-url, the name "
        "that the server knows it by.",
    ),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(help="Ask an OpenAI-compatible server instead of loading a model: http://127.0.0.1:8000/v1."),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key-env", help="The environment variable that holds the server's key.")
]
ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        help="NAME=VALUE, how the server at --base-url is treated; repeatable: concurrency, retries, "
        "connect_timeout_s, read_timeout_s, total_timeout_s, backoff_s, max_backoff_s, max_bytes, context (positions), "
        "parameters (from which FLOPs are told).",
    ),
]
VerifierOption = Annotated[
    str | None,
    typer.Option(
        "--verifier",
        help="Who judges lines, for the strategies that ask: exact (the task's own checker), step-oracle (it knows the "
        "truth of partial lines too), prm[:DIRECTORY][:last|min|product|mean] and orm[:DIRECTORY] (reward models), "
        "likelihood, confidence, entropy, self-evaluation, pairwise[:RIVALS] (the model itself), code (the examples in "
        "the problem, run), z3 (the problem as a formula). Composed, as one word in quotes: product(prm, likelihood), "
        "mixture(prm, 0.7, orm, 0.3), threshold(prm, at=-2), staged(prm, exact).",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.")]
DtypeOption = Annotated[str, typer.Option(help="What the weights compute in: auto (as stored), float32, bfloat16...")]
BackendOption = Annotated[
    str,
    typer.Option(help="What computes: cpu (compiled kernels), reference (plain torch), auto (the fastest there is)."),
]
WeightsOption = Annotated[
    str, typer.Option(help="The format of the layers' weights: auto (as stored), int8, int4 (rounded on loading).")
]
KvOption = Annotated[
    str, typer.Option(help="The format of keys and values in the compiled kernels: auto, float32, bfloat16, int8.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads that compute on the CPU [default: one for each processor it may use]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else there.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]


def open_model(
    source: str | None,
    device: str,
    dtype: str,
    backend: str = "auto",
    limits: Limits | None = None,
    weights: str = "auto",
    kv: str = "auto",
    threads: int | None = None,
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
        loaded = load(
            source, dtype=dtype, device=device, backend=backend, limits=limits, weights=weights, kv=kv, threads=threads
        )
    for message in user_warnings(warned):
        err().print(Text(f"note: {message}", style="yellow"), soft_wrap=True)
    return loaded


def user_warnings(warned: Iterable[warnings.WarningMessage]) -> list[str]:
    """What recorded warnings tell the user, each once."""
    return list(dict.fromkeys(str(warning.message) for warning in warned if warning.category is UserWarning))


def open_anywhere(
    source: str | None,
    device: str,
    dtype: str,
    backend: str,
    base_url: str | None,
    api_key_env: str | None,
    weights: str = "auto",
    kv: str = "auto",
    threads: int | None = None,
    server: list[str] | None = None,
) -> LanguageModel:
    """The model called ``source``: on the server at ``base_url`` where that is given, else loaded by `open_model`.

    Raises UserError for options that speak of the other place, and for a key that is not there; else what
    `outthink.connect` or `outthink.load` raises.
    """
    if base_url is None:
        if api_key_env is not None:
            raise UserError("--api-key-env is for servers: give --base-url too, or leave it out.")
        if server:
            raise UserError("--server is for servers: give --base-url too, or leave it out.")
        return open_model(source, device, dtype, backend, None, weights, kv, threads)
    automatic = {"dtype": dtype, "backend": backend, "weights": weights, "kv": kv}
    told = [("device", device, "cpu"), *((name, value, "auto") for name, value in automatic.items())]
    for name, value, default in (*told, ("threads", threads, None)):
        if value != default:
            raise UserError(f"--{name} {value}: with --base-url the server decides that; leave it out.")
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise UserError(f"The environment variable {api_key_env} is not set; it was to hold the server's key.")
    with err().status(f"connecting to {base_url}"):
        from outthink.lm.remote import connect

        return connect(base_url, source, api_key=key, **_treatment(server or []))


def _treatment(pairs: Iterable[str]) -> dict[str, Any]:
    """What `outthink.connect` takes besides, of ``NAME=VALUE`` pairs. Raises UserError for one that it does not."""
    from outthink.lm.remote.connection import Connection

    settings = {name: each.default for name, each in Connection.__dataclass_fields__.items()}
    defaults = {name: value for name, value in settings.items() if isinstance(value, int | float)}
    told = read_settings(pairs, {**defaults, "parameters": 0.0, "context": 0})
    if unknown := sorted(told.keys() - {*defaults, "parameters", "context"}):
        known = ", ".join([*defaults, "context", "parameters"])
        raise UserError(f"--server {unknown[0]}: there is no such option; there are {known}.")
    return told


def tell_faults(registry: Registry[Any]) -> None:
    """Say on stderr what is wrong with installed plugins, a line each."""
    for fault in registry.faults():
        err().print(Text(f"note: {fault}", style="yellow"), soft_wrap=True)


def read_settings(pairs: Iterable[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    r"""The values of ``NAME=VALUE`` pairs, each of the type of its default (a tuple's with commas between).

    Names without a default are guessed at. In texts, ``\n`` stands for a line break.

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
    return text.replace("\\n", "\n")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
