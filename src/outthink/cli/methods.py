"""``outthink methods``: what can be done with a budget, what each way guarantees, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from outthink.cli.console import out, print_json, table
from outthink.cli.options import JsonOption, tell_faults
from outthink.core.errors import UnknownNameError

if TYPE_CHECKING:
    from outthink.core.registry import Method

app = typer.Typer(invoke_without_command=True)

GUARANTEE_STYLES = {"lossless": "green", "unbiased": "green", "consistent": "cyan", "bounded": "cyan", "heuristic": ""}
MEANINGS = {
    "lossless": "the output is exactly the reference's",
    "unbiased": "right on average at every sample size",
    "consistent": "right in the limit of many samples",
    "bounded": "a stated error bound holds",
    "heuristic": "measured only",
}


@app.callback()
def methods(
    context: typer.Context,
    family: Annotated[str | None, typer.Option("--family", "-f", help="Only this family.")] = None,
    json: JsonOption = False,
) -> None:
    """List the strategies: family, guarantee, what it is a guarantee of; of one family, the papers too."""
    if context.invoked_subcommand is not None:
        return
    from outthink.reason.expression import FORMS

    chosen = _of_family(family)
    if json:
        print_json([_record(method) for method in chosen])
        return
    # The table of one family has room for the papers; of all families they would fill pages.
    made = table("strategy", *(["family"] if family is None else []), "guarantee", "what it does", "what it promises")
    for column in made.columns[:-2]:
        column.no_wrap = True
    made.padding = (0, 2, 1, 0)
    for method in chosen:
        summary = Text(method.summary)
        if family is not None:
            summary.append(f"\n{method.paper}", style="dim")
        where = [method.family] if family is None else []
        made.add_row(Text(method.name, style="bold"), *where, _guarantee(method), summary, method.promise)
    out().print(made)
    used = dict.fromkeys(method.guarantee for method in chosen)
    out().print(Text("; ".join(f"{name}: {MEANINGS[name]}" for name in MEANINGS if name in used), style="dim"))
    out().print(Text(f"Combined, as one word in quotes: {FORMS}.", style="dim"))
    told = "the paper and the options" if family is None else "the options"
    out().print(Text(f"`outthink methods show NAME` gives {told}.", style="dim"))


@app.command()
def show(name: Annotated[str, typer.Argument(help="The strategy's name.")], json: JsonOption = False) -> None:
    """Show one strategy: guarantee, promise, paper, options."""
    from outthink.reason import STRATEGIES

    method = STRATEGIES.get(name)
    if json:
        print_json(_record(method))
        return
    console = out()
    console.print(Text.assemble((method.name, "bold cyan"), f"  {method.summary}"))
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    made.add_row("family", method.family)
    made.add_row("guarantee", Text.assemble(_guarantee(method), f" ({MEANINGS[method.guarantee]})"))
    made.add_row("promise", method.promise)
    made.add_row("paper", Text(method.paper))
    for number, (option, default) in enumerate(method.options.items()):
        made.add_row("" if number else "options", Text(f"{option} = {default}"))
    console.print(made)
    options = " ".join(f"-o {option}={default}" for option, default in method.options.items() if default is not None)
    console.print(Text(f"\noutthink solve PROBLEM --strategy {method.name} {options}".rstrip(), style="dim"))


def _of_family(family: str | None) -> list[Method]:
    from outthink.reason import STRATEGIES

    tell_faults(STRATEGIES)
    known = list(STRATEGIES)
    if family is not None and family not in (names := {method.family for method in known}):
        raise UnknownNameError("family of strategies", family, names)
    return sorted((m for m in known if family in (None, m.family)), key=_rank)


def _rank(method: Method) -> tuple[str, str]:
    # The plain decoder first: it is what all others are measured against.
    return ("" if method.family == "decoding" else method.family, method.name)


def _guarantee(method: Method) -> Text:
    return Text(method.guarantee, style=GUARANTEE_STYLES[method.guarantee])


def _record(method: Method) -> dict[str, Any]:
    fields = {name: value for name, value in vars(method).items() if name != "run"}
    return {**fields, "options": method.options}
