"""``outthink bench search``: our search beside others', in one run."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.bench_engine import counting_bar
from outthink.cli.console import err, out, output_file, print_json, table, write_text
from outthink.cli.options import JsonOption, ModelOption
from outthink.core.errors import CapabilityError, UserError

if TYPE_CHECKING:
    from outthink.bench.search.plan import Part, SearchConfig


def search(
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The JSON file; a table and the records go beside it. Needed to measure."),
    ] = None,
    set_up: Annotated[bool, typer.Option("--set-up", help="Make the others' environments first: downloads.")] = False,
    model: ModelOption = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", "-p", help="trees, tokens, nodes, share; repeatable [default: all]"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Over everything; after one that is not counted.")] = 5,
    branches: Annotated[
        list[int] | None, typer.Option(help="Live ones of each search; repeatable [default: 16 and 64]")
    ] = None,
    difficulty: Annotated[float, typer.Option("--difficulty", "-d", help="0 is the easiest, 1 the hardest.")] = 0.5,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Of the others' environments [default: in the user's cache]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: to see that everything works.")] = False,
    json: JsonOption = False,
) -> None:
    """Our search beside its_hub, genlm-control and treequest: seconds, positions computed, distance, overhead.

    Everybody does every work in every round. Ctrl-C ends it; the same command goes on from there.
    """
    from outthink.bench.engine.runners import default_directory
    from outthink.bench.search.plan import SearchConfig
    from outthink.bench.search.rounds import find_parts
    from outthink.tasks.problem import check_difficulty

    if output is None and not set_up:
        raise UserError("Say where the result goes with --out FILE.json, or only --set-up.")
    if output is not None and output_file(output).suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    check_difficulty(difficulty)
    chosen = tuple(branches) if branches else (8,) if quick else (16, 64)
    config = SearchConfig(model, rounds, chosen, difficulty, quick)
    parts, place = find_parts(part or ()), directory or default_directory()
    if set_up:
        _set_up(place)
    if output is None:
        return
    result = _measure(parts, config, place, output)
    if json:
        print_json(result)
    else:
        _print(result, output)
    if result["interrupted"]:
        raise KeyboardInterrupt


def _set_up(place: Path) -> None:
    from outthink.bench.engine.runners import set_up
    from outthink.bench.search.plan import ENVIRONMENTS

    for environment in ENVIRONMENTS:
        with err().status(f"setting up {environment}") as status:
            try:
                set_up(environment, place, lambda line: status.update(Text(f"{environment}: {line[:100]}")))  # noqa: B023
            except CapabilityError as error:  # the others may do
                err().print(Text(f"note: {environment}: {error}", style="yellow"), soft_wrap=True)
                continue
        err().print(Text(f"{environment} is ready in {place / environment}", style="dim"), soft_wrap=True)


def _measure(parts: tuple[Part, ...], config: SearchConfig, place: Path, output: Path) -> dict[str, Any]:
    from outthink.bench.engine.machine import describe, is_busy
    from outthink.bench.journal import Journal
    from outthink.bench.reason.run import fingerprint
    from outthink.bench.search.report import WHAT, markdown, report
    from outthink.bench.search.rounds import measure
    from outthink.kernels.cpu.extension import usable_cores
    from outthink.lm.model import resolve

    machine, source = describe(usable_cores()), Path(resolve(config.model))
    if is_busy(machine):
        message = f"the machine is busy ({machine['cores_in_use']:.1f} cores in use): figures will be too low, unevenly"
        err().print(Text(f"warning: {message}.", style="yellow"), soft_wrap=True)
    kept = {name: value for name, value in config.to_json().items() if name != "rounds"}
    journal = Journal(output, {"what": WHAT, "config": kept, "weights": fingerprint(source)})
    with counting_bar() as show:
        measured = measure(parts, config, place, journal, show)
    result = report(measured, parts, config, source.name, machine, " ".join(["outthink", *sys.argv[1:]]))
    if not measured.interrupted:
        journal.pack(measured.records)
    write_text(output, jsons.dumps(result, indent=1) + "\n")
    write_text(output.with_suffix(".md"), markdown(result, parts))
    return result


def _print(result: dict[str, Any], output: Path) -> None:
    from outthink.bench.search.report import shown
    from outthink.bench.search.rounds import find_parts

    for part in find_parts(()):
        head, rows = shown(result, part)
        if rows:
            made = table(*head, title=part.title)
            for column in made.columns[2:]:
                column.justify = "right"
            for row in rows:
                made.add_row(*row)
            out().print(made)
    for name, reason in result["missing"].items():
        out().print(Text(f"no figure: {name}: {reason}"), soft_wrap=True)
    err().print(Text(f"{output}, {output.with_suffix('.md')}", style="dim"), soft_wrap=True)
