"""``outthink bench overhead``: what the engine spends beside the model's own steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outthink.cli.bench_models import bar, check_outputs, interval_of, written
from outthink.cli.console import out, print_json, table
from outthink.cli.options import JsonOption
from outthink.core.errors import CapabilityError, UserError


def overhead(
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file.")],
    threads: Annotated[int | None, typer.Option(help="Of the kernels; by default as many as there are cores.")] = None,
    rounds: Annotated[int, typer.Option(help="Of each case, after one that is not counted.")] = 9,
    json: JsonOption = False,
) -> None:
    """Shares of scheduling, drawing tokens and bookkeeping in a step, on the bundled models at 1, 8 and 64 branches."""
    from outthink.bench.overhead import run
    from outthink.kernels.cpu.extension import compiled, usable_cores

    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads} must be at least 1.")
    if rounds < 1:
        raise UserError(f"--rounds {rounds} must be at least 1.")
    if compiled() is None:
        raise CapabilityError("The compiled CPU kernels are missing; install Outthink where a C++20 compiler is.")
    check_outputs(output, None)
    with bar() as show:
        result = run(output, threads or usable_cores(), rounds, show)
    if json:
        print_json(result)
        return
    made = table("model", "branches", "us a step", "drawing", "bookkeeping", "both", "both, wall time")
    for row in result["rows"]:
        shares = [interval_of(row["cpu"][name], ".1%") for name in ("drawing", "bookkeeping", "overhead")]
        wall = interval_of(row["wall"]["overhead"], ".1%")
        made.add_row(row["model"], str(row["branches"]), f"{row['step_microseconds']:.0f}", *shares, wall)
    out().print(made)
    written(output)
