"""``outthink bench coverage``, ``sizes``, ``drafts``, ``generation``: what models can do, and what they are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from outthink.cli.console import err, out, output_file, print_json, table, write_text
from outthink.cli.interrupt import first_interrupt
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
    from outthink.scheduling import Limits

# Beyond about so many rows, what the interpreter does for each row no longer gets cheaper.
ROWS = 128
FIGURES = ("acceptance", "tokens_per_pass", "agreement", "greedy_tokens_per_pass")

OutOption = Annotated[Path, typer.Option("--out", "-o", help="The JSON file; picture and records go beside it.")]
DifficultiesOption = Annotated[str, typer.Option(help="With commas between; 0 is the easiest, 1 the hardest.")]
MarkdownOption = Annotated[Path | None, typer.Option(help="Write the table as Markdown as well.")]


def coverage(
    output: OutOption,
    model: ModelOption = None,
    suite: Annotated[str, typer.Option(help="A suite of families, or one family.")] = "outthink-core",
    difficulties: DifficultiesOption = "0.1,0.3,0.5",
    num_problems: Annotated[int, typer.Option("--problems", "-n", help="Of each family and difficulty.")] = 40,
    num_samples: Annotated[int, typer.Option("--samples", help="Of each problem, a power of two.")] = 256,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    minutes: Annotated[float | None, typer.Option(help="Begin no more problems after so long.")] = None,
    seed: SeedOption = 0,
    markdown: MarkdownOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """Greedy accuracy, and coverage by up to so many samples, per family and difficulty, on fresh test problems.

    Each problem is recorded as it is finished: the same command goes on after ctrl-C, a kill or --minutes, and measures
    more problems where --problems is raised. The first ctrl-C finishes the problems in flight and reports.
    """
    from outthink.tasks.suites import get_suite

    steps = read_difficulties(difficulties)
    if num_samples < 1 or num_samples & (num_samples - 1):
        raise UserError(f"--samples {num_samples} must be a power of two.")
    if num_problems < 1:
        raise UserError(f"--problems {num_problems} must be at least 1.")
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes {minutes} must be above 0.")
    check_outputs(output, markdown)
    get_suite(suite)
    with open_model(model, device, dtype, backend, limits=_limits()) as loaded:
        from outthink.bench.coverage import CoverageConfig, run
        from outthink.bench.coverage_report import draw
        from outthink.bench.coverage_report import markdown as as_markdown

        config = CoverageConfig(suite, steps, num_problems, num_samples, temperature, seed, minutes)
        stop = threading.Event()

        def finish() -> None:
            stop.set()
            err().print("finishing the problems in flight; ctrl-C again to drop them", style="yellow")

        with bar() as show, first_interrupt(finish):
            result = run(loaded, config, output, show, stop.is_set)
    if not result["cells"]:
        raise UserError("Stopped before the first problem was finished; the same command begins again.")
    draw(result, output.with_suffix(".png"))
    if markdown is not None:
        write_text(markdown, as_markdown(result))
    if json:
        print_json(result)
    else:
        _print_coverage(result)
        written(output, output.with_suffix(".png"), markdown)
        if not result["complete"]:
            err().print("not all problems have been measured; the same command goes on", style="yellow")


def sizes(
    results: Annotated[list[Path], typer.Argument(help="Results of `bench coverage`, the smallest model first.")],
    output: OutOption,
    markdown: MarkdownOption = None,
    json: JsonOption = False,
) -> None:
    """Models side by side: greedy accuracy by difficulty, who beats whom, and where thinking longer has room.

    The band: greedy accuracy 30 to 70%, and coverage at 64 samples at least 20 points higher.
    """
    from outthink.bench.coverage_report import name_of, read_result
    from outthink.bench.sizes import compare, draw
    from outthink.bench.sizes import markdown as as_markdown

    check_outputs(output, markdown)
    found = [read_result(path) for path in results]
    names = [name_of(result) for result in found]
    labels = names if len(set(names)) == len(names) else [path.stem for path in results]
    if len(set(labels)) < len(labels):
        raise UserError("The results are of equal names: give files of different names.")
    labelled = dict(zip(labels, found, strict=True))
    compared = compare(labelled)
    from json import dumps

    write_text(output, dumps(compared, indent=1) + "\n")
    draw(labelled, output.with_suffix(".png"))
    if markdown is not None:
        write_text(markdown, as_markdown(compared))
    if json:
        print_json(compared)
        return
    _print_sizes(compared)
    written(output, output.with_suffix(".png"), markdown)


def drafts(
    output: OutOption,
    target: Annotated[str, typer.Option(help="The model that is drafted for: a directory, a hub id, a bundled one.")],
    draft: Annotated[str, typer.Option(help="The model that drafts; both must share one tokenizer.")],
    suite: Annotated[str, typer.Option(help="A suite of families, or one family.")] = "outthink-core",
    difficulties: DifficultiesOption = "0.1,0.3,0.5",
    num_problems: Annotated[int, typer.Option("--problems", "-n", help="Of each family and difficulty.")] = 10,
    num_lines: Annotated[int, typer.Option("--lines", help="Sampled from the target for each problem.")] = 4,
    num_drafts: Annotated[int, typer.Option("--drafts", help="Tokens that are drafted at a time.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of target and draft.")] = 1.0,
    seed: SeedOption = 0,
    markdown: MarkdownOption = None,
    json: JsonOption = False,
) -> None:
    """What speculative sampling would accept of a draft model's tokens, per family: exact on lines of the target."""
    from outthink.tasks.suites import get_suite

    steps = read_difficulties(difficulties)
    for name, value in (("--problems", num_problems), ("--lines", num_lines), ("--drafts", num_drafts)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1.")
    if not temperature > 0:
        raise UserError(f"--temperature {temperature} must be above 0; greedy agreement is told beside it.")
    check_outputs(output, markdown)
    get_suite(suite)
    with open_model(target, "cpu", "float32", limits=_limits()) as loaded:
        from outthink.bench.drafts import DraftsConfig, run
        from outthink.bench.drafts import markdown as as_markdown
        from outthink.lm.model import resolve

        config = DraftsConfig(suite, steps, num_problems, num_lines, num_drafts, temperature, seed)
        with bar() as show:
            result = run(loaded, resolve(draft), config, output, show)
    if markdown is not None:
        write_text(markdown, as_markdown(result))
    if json:
        print_json(result)
        return
    made = table("family", "n", "acceptance", f"tokens/pass, {num_drafts} drafts", "greedy agreement", "tokens/pass")
    for row in result["rows"]:
        made.add_row(row["family"], str(row["n"]), *(interval_of(row[name]) for name in FIGURES))
    out().print(made)
    written(output, markdown)


def generation(
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file.")],
    suite: Annotated[str, typer.Option(help="A suite of families, or one family.")] = "outthink-core",
    difficulties: DifficultiesOption = "0,0.25,0.5,0.75,1",
    json: JsonOption = False,
) -> None:
    """Problems a second that each family generates, on one core."""
    from outthink.bench.generation import run
    from outthink.tasks.suites import get_suite

    steps = read_difficulties(difficulties)
    check_outputs(output, None)
    get_suite(suite)
    with bar() as show:
        result = run(suite, steps, output, show)
    if json:
        print_json(result)
        return
    made = table("family", *(f"difficulty {step:g}" for step in steps), title="problems a second (95% intervals)")
    for family in dict.fromkeys(row["family"] for row in result["rows"]):
        rates = [row["rate"] for row in result["rows"] if row["family"] == family]
        made.add_row(family, *(interval_of(rate, ",.0f") for rate in rates))
    out().print(made)
    written(output)


def read_difficulties(text: str) -> tuple[float, ...]:
    """Numbers in 0..1 with commas between, in rising order; raises UserError and TaskError for others."""
    from outthink.tasks.problem import check_difficulty

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--difficulties {text!r} must be numbers with commas between, such as 0.1,0.3,0.5.") from error
    return tuple(sorted({check_difficulty(value) for value in values}))


def check_outputs(output: Path, markdown: Path | None) -> None:
    """Raise UserError, before any work is done, for files that cannot be written."""
    if output.suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    for path in (output, markdown):
        if path is not None:
            output_file(path)


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr; what it yields is called with what is done, of how much, and what is being done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=err(), transient=True) as progress:
        shown = progress.add_task("starting", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(shown, completed=done, total=total, description=escape(what))

        yield show


def written(*paths: Path | None) -> None:
    """Say on stderr what was written."""
    err().print(Text(", ".join(str(path) for path in paths if path is not None), style="dim"), soft_wrap=True)


def interval_of(estimate: dict[str, Any], form: str = ".2f") -> str:
    """``0.43 [0.38, 0.49]``."""
    from outthink.bench.coverage_report import interval

    return interval(estimate, form)


def _limits() -> Limits:
    from outthink.scheduling import Limits

    return Limits(max_sequences=ROWS)


def _print_coverage(result: dict[str, Any]) -> None:
    from outthink.bench.coverage_report import SHOWN

    counts = [k for k in SHOWN if k <= result["config"]["num_samples"]]
    made = table("family", "difficulty", "n", "greedy", "one sample", *(f"coverage@{k}" for k in counts))
    for cell in result["cells"]:
        shown = [interval_of(cell["greedy"]), *(f"{cell['coverage'][str(k)]['value']:.2f}" for k in (1, *counts))]
        made.add_row(cell["family"], f"{cell['difficulty']:g}", str(cell["n"]), *shown)
    for column in made.columns[1:]:
        column.justify = "right"
    out().print(made)


def _print_sizes(compared: dict[str, Any]) -> None:
    labels = compared["labels"]
    gains = [f"gain of {label}" for label in labels]
    made = table("family", "difficulty", *labels, *(f"{b} - {a}" for a, b in pairwise(labels)), *gains)
    for row in compared["rows"]:
        greedy = [interval_of(figures["greedy"]) for figures in row["models"]]
        steps = [interval_of(step, "+.2f") for step in row["steps"]]
        gained = [interval_of(f["gain"], "+.2f") + (" *" if f["in_band"] else "") for f in row["models"]]
        made.add_row(row["family"], f"{row['difficulty']:g}", *greedy, *steps, *gained)
    out().print(made)
    for label, found in zip(labels, compared["bands"], strict=True):
        inside = [family for family, at in found.items() if at]
        console = out()
        console.print(Text(f"{label}: {len(inside)} of {len(found)} families in the band: {', '.join(inside)}"))
