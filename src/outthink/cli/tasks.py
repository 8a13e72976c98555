"""``outthink tasks``: problems with exact checkers, listed, shown and exported."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from outthink.cli.console import err, out, print_json, table
from outthink.cli.options import JsonOption, SeedOption, tell_faults
from outthink.core.errors import TaskError, UserError
from outthink.tasks.problem import Problem, Split

app = typer.Typer(invoke_without_command=True)

DifficultyOption = Annotated[float, typer.Option("--difficulty", "-d", help="0 is the easiest, 1 the hardest.")]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SplitOption = Annotated[str, typer.Option(help="train, validation or test: decided by the problem itself.")]


@app.callback()
def tasks(context: typer.Context, json: JsonOption = False) -> None:
    """List the families of problems."""
    if context.invoked_subcommand is not None:
        return
    from outthink.tasks.families import FAMILIES, get_family

    tell_faults(FAMILIES)
    families = [get_family(name) for name in FAMILIES.usable()]
    if json:
        print_json([{"name": family.name, "summary": family.summary} for family in families])
        return
    made = table("family", "problems", "one at difficulty 0")
    for family in families:
        first = family.generate(seed=0, difficulty=0.0).prompt.splitlines()[0]
        made.add_row(
            Text(family.name, style="bold"), family.summary, Text(_shorten(first), style="dim", overflow="ellipsis")
        )
    made.columns[0].no_wrap = True
    out().print(made)
    out().print(Text("`outthink tasks show FAMILY --difficulty 0.4 --seed 7` prints one with its solution.", "dim"))


@app.command()
def show(
    family: Annotated[str, typer.Argument(help="A family; `outthink tasks` lists them.")],
    difficulty: DifficultyOption = 0.4,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Print one problem with its solution."""
    from outthink.tasks.families import get_family

    problem = get_family(family).generate(seed, difficulty)
    if json:
        print_json(record(problem))
        return
    console = out()
    console.print(f"[bold]{escape(family)}[/]  [dim]difficulty {difficulty:g}, seed {seed}, {problem.split} split[/]\n")
    console.print(Padding(Text(problem.prompt, style="bold cyan"), (0, 0, 0, 2), expand=False))
    console.print(Text("\nsolution", style="dim"))
    console.print(Padding(Text(problem.solution), (0, 0, 0, 2), expand=False))


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    suite: Annotated[str | None, typer.Option(help="A suite of families [default: outthink-core]")] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", "-f", help="Instead of a suite, this family; repeatable.")
    ] = None,
    difficulty: Annotated[
        list[float] | None, typer.Option("--difficulty", "-d", help="With --family; repeatable [default: 0.5]")
    ] = None,
    num: Annotated[int, typer.Option("--num", "-n", help="Of a suite, or of each family and difficulty.")] = 1000,
    split: SplitOption = "test",
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Write problems as JSON Lines, with task files with which lm-eval runs them offline."""
    from outthink.cli.export import choose, export_problems

    if num < 1:
        raise UserError(f"--num {num} must be at least 1.")
    if split not in SPLITS:
        raise TaskError(f"Split {split!r} is not known; known: {', '.join(SPLITS)}.")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a directory.")
    with err().status("drawing problems"):
        written = export_problems(directory, choose(suite, family, difficulty, num, split, seed))
    if json:
        print_json([entry.to_json() for entry in written])
        return
    made = table("family", "problems", "file", "lm-eval task")
    for entry in written:
        made.add_row(entry.family, str(entry.num_problems), str(entry.problems), entry.task)
    out().print(made)
    command = f"lm_eval --model hf --model_args pretrained=MODEL --include_path {directory} --tasks outthink"
    err().print(Text(f"{command} --apply_chat_template", style="dim"), soft_wrap=True)


def record(problem: Problem) -> dict[str, Any]:
    """All of a problem as JSON values: its fields, the solution as text, its split and its keys."""
    values = {field.name: getattr(problem, field.name) for field in fields(problem)}
    derived = {name: getattr(problem, name) for name in ("solution", "split", "key", "canonical_key")}
    return values | derived


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
