"""``outthink train``: train a small model from scratch on the bundled tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outthink.cli.console import err, print_json
from outthink.cli.options import JsonOption, SeedOption, read_settings
from outthink.core.errors import UserError


def train(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Directory of the run; one found there is continued. [default: runs/SUITE-SIZE]"
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="XS, S, M or L.")] = "S",
    suite: Annotated[str, typer.Option(help="A suite of tasks, or a single family.")] = "outthink-core",
    minutes: Annotated[
        float | None, typer.Option(help="How long, over all sittings. [default: 2, 45, 120, 240 for XS, S, M, L]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How many optimizer steps, instead of minutes.")] = None,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    option: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, another field of TrainConfig; repeatable.")
    ] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model and write it in the Hugging Face format, as OUT/model.

    Ctrl-C saves the state; the same command continues it.
    """
    from dataclasses import fields

    with err().status("starting"):
        from outthink.learn.config import TrainConfig
        from outthink.learn.train import train as run

    given = {"size", "suite", "out", "minutes", "steps", "seed", "device", "quiet"}
    defaults = {field.name: field.default for field in fields(TrainConfig) if field.name not in given}
    settings = read_settings(option or [], defaults)
    if unknown := sorted(settings.keys() - defaults.keys()):
        raise UserError(f"Training has no option {', '.join(unknown)}; --set takes: {', '.join(sorted(defaults))}.")
    for name in ("tokenizer", "init_from"):
        if settings.get(name) is not None:
            settings[name] = Path(str(settings[name]))
    config = TrainConfig(
        size=size,
        suite=suite,
        out=out or Path("runs") / f"{suite}-{size.lower()}",
        minutes=minutes,
        steps=steps,
        seed=seed,
        device=device,
        quiet=quiet or json,
        **settings,
    )
    try:
        model = run(config)
    except KeyboardInterrupt as stop:
        err().print(f"{stop}; the same command continues it")
        raise
    if json:
        print_json({"model": str(model), "config": config.to_json()})
    elif not quiet:
        err().print(f"trained model: {model}", soft_wrap=True)
