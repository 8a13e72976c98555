"""``outthink bench engine``: our engine beside others, in one run."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from outthink.cli.console import err, out, output_file, print_json, table, write_text
from outthink.cli.options import JsonOption
from outthink.core.errors import CapabilityError, CheckpointError, UnknownNameError, UserError

if TYPE_CHECKING:
    from outthink.bench.engine.rounds import EngineConfig
    from outthink.bench.engine.runners import Runner
    from outthink.bench.engine.weights import Subject

Show = Callable[[float, float, str], None]
RANDOM = "random-0.4b"
STARTUP_RUNS = 5


def engine(
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="The JSON file; a picture goes beside it. Needed to measure.")
    ] = None,
    set_up: Annotated[
        bool, typer.Option("--set-up", help="Make the others' environments first: downloads, and minutes of compiling.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help=f"A directory or bundled model; repeatable [default: bundled, {RANDOM}]"),
    ] = None,
    runner: Annotated[
        list[str] | None, typer.Option("--runner", "-r", help="Only ours and these; repeatable [default: all]")
    ] = None,
    bits: Annotated[
        list[str] | None, typer.Option("--bits", help="bf16, int8, int4; repeatable [default: all]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Over everything; after one that is not counted.")] = 5,
    threads: Annotated[int, typer.Option(help="Of each runner.")] = 2,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Of environments and converted weights [default: in the user's cache]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of each kind of work: to see that it runs.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Our engine beside llama.cpp, OpenVINO GenAI and transformers: same weights, prompts, bits and threads.

    Every runner does every kind of work in every round. Ctrl-C ends it; finished rounds are written.
    """
    from outthink.bench.engine.rounds import EngineConfig
    from outthink.bench.engine.runners import default_directory, find_runners

    if output is None and not set_up:
        raise UserError("Say where the result goes with --out FILE.json, or only --set-up.")
    for name, value in (("--rounds", rounds), ("--threads", threads)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1.")
    if output is not None and output_file(output).suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    runners, place = find_runners(runner or ()), directory or default_directory()
    config = EngineConfig(threads, rounds, _bits(bits or []), quick)
    if set_up:
        _set_up(runners, place)
    if output is None:
        return
    result = _measure(_subjects(model or [], place, quick), runners, config, place, output)
    if json:
        print_json(result)
    else:
        _print(result, output)
    if result["interrupted"]:
        raise KeyboardInterrupt


def _bits(names: list[str]) -> Any:
    from outthink.bench.engine.workloads import BITS

    for name in names:
        if name not in BITS:
            raise UnknownNameError("bits", name, BITS)
    return tuple(bits for bits in BITS if not names or bits in names)


def _subjects(names: list[str], place: Path, quick: bool) -> list[Subject]:
    """The models by name; the one of random weights is written where it is not there yet."""
    from outthink.bench.engine.checkpoint import write_random_llama
    from outthink.bench.engine.weights import Subject
    from outthink.lm.model import bundled_models, resolve

    found = []
    for name in names or [*bundled_models()[:1], *([] if quick else [RANDOM])]:
        if name == RANDOM:
            with err().status(f"writing {RANDOM}"):
                found.append(Subject(name, write_random_llama(place / "models" / RANDOM)))
            continue
        path = Path(resolve(name))
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} has no config.json: name a directory, a bundled model or '{RANDOM}'.")
        found.append(Subject(path.resolve().name, path.resolve()))
    return found


def _set_up(runners: tuple[Runner, ...], place: Path) -> None:
    from outthink.bench.engine.runners import set_up

    failed = 0
    for environment in dict.fromkeys(each.environment for each in runners if each.environment is not None):
        with err().status(f"setting up {environment}") as status:
            try:
                set_up(environment, place, lambda line: status.update(Text(f"{environment}: {line[:100]}")))  # noqa: B023
            except CapabilityError as error:  # the others may do
                failed += 1
                err().print(Text(f"note: {environment}: {error}", style="yellow"), soft_wrap=True)
                continue
        err().print(Text(f"{environment} is ready in {place / environment}", style="dim"), soft_wrap=True)
    if failed:
        err().print(Text(f"{failed} could not be set up; the report will say so.", style="yellow"), soft_wrap=True)


def _measure(
    subjects: list[Subject], runners: tuple[Runner, ...], config: EngineConfig, place: Path, output: Path
) -> dict[str, Any]:
    from outthink.bench.engine.machine import describe, is_busy
    from outthink.bench.engine.picture import draw
    from outthink.bench.engine.report import report
    from outthink.bench.engine.rounds import measure

    machine = describe(config.threads)
    if is_busy(machine):
        message = f"the machine is busy ({machine['cores_in_use']:.1f} cores in use): figures will be too low, unevenly"
        err().print(Text(f"warning: {message}.", style="yellow"), soft_wrap=True)
    with counting_bar() as show:
        measured = measure(subjects, runners, config, place, show)
        startup = [] if measured.interrupted else _startup(config, show)
    command = " ".join(["outthink", *sys.argv[1:]])
    result = report(measured, subjects, config, machine, startup, command)
    write_text(output, jsons.dumps(result, indent=1) + "\n")
    draw(result, output.with_suffix(".png"))
    return result


def _startup(config: EngineConfig, show: Show) -> list[tuple[float, float]]:
    from outthink.bench.engine.startup import first_token_s

    runs, count = [], 1 if config.quick else STARTUP_RUNS
    try:
        for number in range(count):
            show(number, count, "from a process's start to the first token")
            runs.append(first_token_s())
    except KeyboardInterrupt:  # of use without it
        return runs
    return runs


@contextmanager
def counting_bar() -> Iterator[Show]:
    """A bar on stderr; what it yields is told how much is done of how much, and what is done now."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        bar = progress.add_task("starting", total=None)
        yield lambda done, total, what: progress.update(bar, completed=done, total=total, description=what[:100])


def _print(result: dict[str, Any], output: Path) -> None:
    made = table("model", "work", "bits", "ours", "best other", "", "ratio", "rounds", "goal")
    for column in (3, 5, 6, 7, 8):
        made.columns[column].justify = "right"
    for found in result["comparisons"]:
        start = (found["model"], found["workload"], found["bits"], f"{found['rate']:,.0f}")
        if found["ratio"] is None:
            made.add_row(*start, "none ran", "", "", "", f"{found['goal']:g}x")
            continue
        ratio = Text(f"{found['ratio']:.2f}x", style="green" if found["met"] else "yellow")
        spread = f"{found['low']:.2f} to {found['high']:.2f}"
        made.add_row(*start, found["peer"], f"{found['peer_rate']:,.0f}", ratio, spread, f"{found['goal']:g}x")
    out().print("tokens per second, medians over the rounds", style="dim")
    out().print(made)
    for line in _lines(result):
        out().print(Text(line), soft_wrap=True)
    err().print(Text(f"{output}, {output.with_suffix('.png')}", style="dim"), soft_wrap=True)


def _lines(result: dict[str, Any]) -> list[str]:
    """What is told beside the table."""
    lines = []
    for share in result["bandwidth"]:
        speeds = f"{share['bytes_per_s'] / 1e9:.1f} of {share['limit_bytes_per_s'] / 1e9:.1f} GB/s"
        lines.append(
            f"{share['model']}, int8, batch 1: reads {speeds}, {share['share']:.0%} (goal {share['goal']:.0%})"
        )
    missed = {(each["model"], each["workload"], each["bits"]) for each in result["comparisons"] if each["met"] is False}
    for each in result["profile"]:
        if (each["model"], each["workload"], each["bits"]) in missed:
            lines.append(_why(each))
    for each in result["agreement"]:
        lines.append(f"{each['model']}, bf16: {each['agree']} of {each['tokens']} likeliest tokens as {each['runner']}")
    for each in result["overhead"]:
        what = f"{each['model']}, {each['bits']}, branches: {each['branches']}"
        lines.append(f"{what}: {each['share']:.0%} of a step is outside the kernels (goal: below {each['goal']:.0%})")
    if (startup := result["startup"]) is not None:
        seconds = f"{startup['first_token_s']:.2f} s ({startup['processor_s']:.2f} s of processor time)"
        lines.append(f"first token after {seconds}, goal {startup['goal_s']:g} s")
    return lines + [f"no figure: {name}: {reason}" for name, reason in result["missing"].items()]


def _why(profile: dict[str, Any]) -> str:
    """Where the time of a workload goes whose goal was missed, and how far it is from what the machine can do."""
    stages = sorted(profile["stages"].items(), key=lambda stage: -stage[1])[:3]
    largest = ", ".join(f"{name} {share:.0%}" for name, share in stages)
    line = f"missed: {profile['model']}, {profile['workload']}, {profile['bits']}: {largest}"
    if "arithmetic" not in profile:
        return line
    limits = (
        f"{profile['arithmetic']:.0%} is the least that its multiplications take, {profile['memory']:.0%} its memory"
    )
    return f"{line}; of its time {limits}"
