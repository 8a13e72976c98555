"""``outthink bench``: measurements, each with intervals and the command that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from outthink.cli import bench_models
from outthink.cli.bench_engine import engine
from outthink.cli.bench_overhead import overhead
from outthink.cli.bench_quality import quality
from outthink.cli.bench_reason import draw, reason, small_vs_large
from outthink.cli.bench_search import search
from outthink.cli.bench_serve import serve
from outthink.cli.console import err, out, output_file, print_json, table
from outthink.cli.options import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    SeedOption,
    open_model,
)
from outthink.core.errors import UserError

if TYPE_CHECKING:
    from outthink.bench.scaling import ScalingConfig
    from outthink.lm.model import Model

app = typer.Typer(no_args_is_help=True, help="Measure, and write what was measured as JSON and as a picture.")


@app.callback()
def bench() -> None:
    """Measure, and write what was measured as JSON and as a picture."""


app.command()(engine)
app.command()(overhead)
app.command()(quality)
app.command()(reason)
app.command()(search)
app.command()(serve)
app.command()(small_vs_large)
app.command()(draw)


@app.command()
def scaling(
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file; picture and records go beside it.")],
    model: ModelOption = None,
    family: Annotated[str, typer.Option("--family", "-f", help="The family of problems.")] = "arithmetic",
    difficulty: Annotated[float, typer.Option("--difficulty", "-d", help="0 is the easiest, 1 the hardest.")] = 0.5,
    num_problems: Annotated[int, typer.Option("--problems", "-n", help="Fresh problems of the test split.")] = 200,
    largest: Annotated[int, typer.Option("--samples", help="The largest number of samples, a power of two.")] = 64,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    seed: SeedOption = 0,
    concurrency: Annotated[int, typer.Option(help="Problems that are sampled at once.")] = 4,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """Accuracy against the number of samples, for each strategy, on fresh problems."""
    from outthink.tasks.families import get_family
    from outthink.tasks.problem import check_difficulty

    if largest < 1 or largest & (largest - 1):
        raise UserError(f"--samples {largest} must be a power of two.")
    for name, value in (("--problems", num_problems), ("--concurrency", concurrency)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1.")
    if output.suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    check_difficulty(difficulty)
    get_family(family)
    output_file(output)
    with open_model(model, device, dtype, backend) as loaded:
        from outthink.bench.scaling import ScalingConfig

        counts = tuple(1 << k for k in range(largest.bit_length()))
        config = ScalingConfig(family, difficulty, num_problems, counts, temperature, seed, concurrency)
        result = _run(loaded, config, output)
    if json:
        print_json(result)
    else:
        _print(result, output)


app.command()(bench_models.coverage)
app.command()(bench_models.sizes)
app.command()(bench_models.drafts)
app.command()(bench_models.generation)


def _run(model: Model, config: ScalingConfig, output: Path) -> dict[str, Any]:
    from outthink.bench.scaling import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        bar = progress.add_task("starting", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=what)

        return run(model, config, output, show)


def _print(result: dict[str, Any], output: Path) -> None:
    made = table("strategy", "N", "accuracy", "95% interval", "against greedy", "tokens")
    for column in made.columns[1:]:
        column.justify = "right"
    for point in result["points"]:
        name = point["strategy"] + (f" ({point['verifier']})" if point["verifier"] else "")
        accuracy, gain = point["accuracy"], point["gain"]
        interval = f"{accuracy['low']:.1%} to {accuracy['high']:.1%}"
        against = f"{gain['value']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%})"
        made.add_row(name, str(point["n"]), f"{accuracy['value']:.1%}", interval, against, f"{point['tokens']:,.0f}")
    out().print(made)
    err().print(Text(f"{output}, {output.with_suffix('.png')}", style="dim"), soft_wrap=True)
