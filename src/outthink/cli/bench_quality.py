"""``outthink bench quality``: what 8 and 4 bits cost in perplexity and in accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from outthink.cli.bench_models import bar, check_outputs
from outthink.cli.console import err, out, print_json, table
from outthink.cli.options import JsonOption, ModelOption, SeedOption
from outthink.core.errors import UserError


def quality(
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file; picture and records go beside it.")],
    model: ModelOption = None,
    suite: Annotated[str, typer.Option(help="A suite of families, or one family.")] = "outthink-core",
    num_problems: Annotated[int, typer.Option("--problems", "-n", help="Of the validation split.")] = 400,
    documents: Annotated[int, typer.Option(help="Problems of the training split to calibrate on.")] = 128,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Perplexity of solutions and greedy accuracy of every weight and KV format, against bfloat16.

    Each format is written, loaded and computed by the compiled kernels, on fresh validation problems. The same command
    goes on after ctrl-C with the formats that are missing.
    """
    from outthink.tasks.suites import get_suite

    for name, value in (("--problems", num_problems), ("--documents", documents)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1.")
    check_outputs(output, None)
    get_suite(suite)
    with err().status("starting"):
        from outthink.bench.quality import QualityConfig, run
        from outthink.lm.model import resolve

    with bar() as show:
        result = run(resolve(model), QualityConfig(suite, num_problems, documents, seed), output, show)
    if json:
        print_json(result)
        return
    _print(result)
    err().print(Text(f"{output}, {output.with_suffix('.png')}", style="dim"), soft_wrap=True)


def _print(result: dict[str, Any]) -> None:
    made = table("format", "MB", "perplexity", "against bf16", "95%, per problem", "accuracy", "against bf16")
    for column in made.columns[1:]:
        column.justify = "right"
    for row in result["formats"]:
        ratio, accuracy, gain = row["relative_perplexity_per_problem"], row["accuracy"], row["accuracy_gain"]
        made.add_row(
            row["name"],
            f"{row['bytes'] / 1e6:,.2f}",
            f"{row['perplexity']:.4f}",
            f"{row['relative_perplexity']:+.2%}",
            f"{ratio['low']:+.2%} to {ratio['high']:+.2%}",
            f"{accuracy['value']:.1%}",
            f"{gain['value']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%})",
        )
    out().print(made)
