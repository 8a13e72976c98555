"""``outthink reward``: label steps with rollouts, train a reward model on the labels, judge both against the oracle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from outthink.cli.console import err, out, output_file, print_json, table
from outthink.cli.options import (
    BackendOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    SeedOption,
    open_model,
    read_settings,
)
from outthink.core.errors import UserError

if TYPE_CHECKING:
    from outthink.learn.rewards.rollouts import LabelConfig

app = typer.Typer(no_args_is_help=True, help="Reward models: label steps, train, judge against the exact step oracle.")
LINE_SECONDS = 15.0

SuiteOption = Annotated[str, typer.Option(help="A suite of tasks, or a single family.")]
HardestOption = Annotated[float, typer.Option(help="The largest difficulty, in (0, 1].")]
ProblemsOption = Annotated[int, typer.Option("--problems", "-n", help="How many problems.")]
LinesOption = Annotated[int, typer.Option(help="Sampled lines of each problem.")]
TemperatureOption = Annotated[float, typer.Option(help="Of lines and rollouts.")]
MaxTokensOption = Annotated[int, typer.Option(help="The most tokens of a line.")]
ConcurrencyOption = Annotated[int, typer.Option(help="Problems in flight at once; changes speed and memory alone.")]


@app.callback()
def reward() -> None:
    """Reward models: label steps, train, judge against the exact step oracle."""


@app.command()
def label(
    output: Annotated[Path, typer.Option("--out", "-o", help="The file of labels, .jsonl.gz; one there is continued.")],
    model: ModelOption = None,
    labels: Annotated[str, typer.Option(help="monte-carlo, binary-search or outcomes.")] = "monte-carlo",
    num_problems: ProblemsOption = 1000,
    rollouts: Annotated[int, typer.Option(help="Continuations of a step's prefix.")] = 8,
    lines: LinesOption = 1,
    suite: SuiteOption = "outthink-core",
    hardest: HardestOption = 0.5,
    temperature: TemperatureOption = 1.0,
    max_tokens: MaxTokensOption = 512,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 24,
    device: DeviceOption = "cpu",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """Label the steps of a model's own lines on training problems, by rollouts of the model.

    Ctrl-C or a kill keeps every problem that is finished; the same command continues.
    """
    from outthink.learn.rewards.labelers import make_labeler
    from outthink.learn.rewards.rollouts import LabelConfig
    from outthink.learn.rewards.store import read_labels
    from outthink.tasks.suites import get_suite

    config = LabelConfig(
        labels, num_problems, lines, rollouts, suite, hardest, "train", temperature, max_tokens, seed, concurrency
    )
    make_labeler(labels, lines, rollouts, max_tokens)  # mistakes are told before the model is loaded
    get_suite(suite)
    output_file(output)
    with open_model(model, device, "auto", backend) as loaded, shown("labelling") as progress:
        from outthink.learn.rewards.rollouts import label as run

        with _interrupts_are_told(f"what is finished is in {output}; the same command continues"):
            run(loaded, config, output, progress)
    _, found = read_labels(output)
    every = [line for record in found for line in record.lines]
    result = {
        "file": str(output),
        "problems": len(found),
        "lines": len(every),
        "right": sum(line.right for line in every),
        "step_labels": sum(len(line.steps) for line in every),
        "prompt": sum(record.prompt for record in found),
        "decoded": sum(record.decoded for record in found),
    }
    if json:
        print_json(result)
    else:
        amount = f"{result['step_labels']:,} labels of steps on {result['lines']:,} lines, {result['right']:,} right"
        spent = f"{result['prompt'] + result['decoded']:,} tokens"
        out().print(f"{amount}, of {result['problems']:,} problems, for {spent}: {output}", soft_wrap=True)


@app.command()
def train(
    labels: Annotated[Path, typer.Option(help="The file of labels that `outthink reward label` made.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory of the run; a run found there is continued.")],
    model: ModelOption = None,
    kind: Annotated[str, typer.Option(help="process (read after each step) or outcome (of whole lines).")] = "process",
    minutes: Annotated[float | None, typer.Option(help="At most so long, over all sittings.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    option: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, another field of RewardConfig; repeatable.")
    ] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a reward model on labels and write it in the Hugging Face format, as OUT/model.

    Its trunk begins with the model that was labelled. Ctrl-C saves the state; the same command continues it.
    """
    from dataclasses import fields

    with err().status("starting"):
        from outthink.learn.rewards.config import RewardConfig
        from outthink.learn.rewards.train import train_reward
        from outthink.lm.model import resolve
        from outthink.models.hub import resolve_source

    given = {"kind", "labels", "model", "out", "minutes", "seed", "device", "quiet"}
    defaults = {field.name: field.default for field in fields(RewardConfig) if field.name not in given}
    settings = read_settings(option or [], defaults)
    if unknown := sorted(settings.keys() - defaults.keys()):
        raise UserError(f"Training has no option {', '.join(unknown)}; --set takes: {', '.join(sorted(defaults))}.")
    policy = resolve_source(resolve(model))
    hush = quiet or json
    config = RewardConfig(
        kind, labels, policy, output, minutes=minutes, seed=seed, device=device, quiet=hush, **settings
    )
    with _interrupts_are_told("the same command continues it"):
        exported, figures = train_reward(config)
    if json:
        print_json({"model": str(exported), "config": config.to_json(), "figures": figures})
    elif not quiet:
        if "heldout_loss" in figures:
            against = f"{figures['heldout_loss']:.4f} nats a label, a constant has {figures['constant_loss']:.4f}"
            err().print(f"on problems kept out: {against}")
        err().print(f"trained model: {exported}", soft_wrap=True)


@app.command()
def judge(
    directory: Annotated[Path, typer.Argument(help="A reward model, or the training run that made it.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file; picture, lines and readings go beside.")],
    model: ModelOption = None,
    num_problems: ProblemsOption = 500,
    lines: LinesOption = 2,
    suite: SuiteOption = "outthink-core",
    hardest: HardestOption = 0.5,
    temperature: TemperatureOption = 1.0,
    max_tokens: MaxTokensOption = 512,
    seed: SeedOption = 1,
    concurrency: ConcurrencyOption = 48,
    device: DeviceOption = "cpu",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """How well a reward model tells right steps from wrong ones: AUC per family, and calibration.

    On fresh problems of the test split: each prefix of a sampled line that ends with a step is held against the
    family's exact step oracle.
    """
    from outthink.learn.rewards.rollouts import LabelConfig
    from outthink.tasks.suites import get_suite

    _json_file(output)
    config = LabelConfig(
        "outcomes", num_problems, lines, 1, suite, hardest, "test", temperature, max_tokens, seed, concurrency
    )
    get_suite(suite)
    result = _judge(directory, config, output, model, device, backend)
    if json:
        print_json(result)
        return
    made = table(
        "family", "read at", "readings", "right", "AUC, oracle", "95% interval", "within problems", "AUC, line"
    )
    for column in made.columns[2:]:
        column.justify = "right"
    for row in result["auc"]:
        area, ending = row["auc_truth"], row["auc_outcome"]
        right = f"{row['true'] / row['readings']:.0%}"
        figures = (f"{area['value']:.3f}", f"{area['low']:.3f} to {area['high']:.3f}") if area else ("-", "-")
        within = "-" if row["within_problem"] is None else f"{row['within_problem']:.3f}"
        line, likelihood = (f"{found['value']:.3f}" if found else "-" for found in (ending, row["auc_likelihood"]))
        made.add_row(row["family"], row["what"], f"{row['readings']:,}", right, *figures, within, line, likelihood)
    out().print(made)
    for name, what in (("truth", "can still be right"), ("outcome", "the line ended right")):
        found = result["calibration"][name]
        figures = (
            f"ECE {found['ece']:.3f}, Brier {found['brier']:.3f} (the base rate has {found['constant_brier']:.3f})"
        )
        out().print(f"as the probability that {what}: {figures}")
    err().print(Text(f"{output}, {output.with_suffix('.png')}", style="dim"), soft_wrap=True)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Files of labels of the same problems, by different labelers.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="The JSON file; the picture goes beside it.")],
    json: JsonOption = False,
) -> None:
    """How good labels are at equal rollout tokens: files of labels against the exact step oracle."""
    from outthink.learn.rewards.compare import compare as run
    from outthink.learn.rewards.pictures import draw_comparison

    _json_file(output)
    with shown("comparing") as progress:
        result = run(files, progress)
    _write(output, result)
    draw_comparison(result, output.with_suffix(".png"))
    if json:
        print_json(result)
        return
    made = table("labels", "rollouts", "lines", "labels of steps", "per 1,000 tokens", "agree", "95% interval", "AUC")
    for column in made.columns[1:]:
        column.justify = "right"
    for one in result["results"]:
        accuracy, area = one["accuracy"], one["auc"]
        agree = (f"{accuracy['value']:.1%}", f"{accuracy['low']:.1%} to {accuracy['high']:.1%}") if accuracy else "--"
        shown_area = f"{area['value']:.3f}" if area else "-"
        counted = (f"{one['num_labels']:,}", f"{one['labels_per_1000_tokens']:.1f}")
        made.add_row(one["labels"], str(one["rollouts"]), str(one["lines"]), *counted, *agree, shown_area)
    out().print(made)
    err().print(Text(f"{result['tokens']:,} tokens each; {output}, {output.with_suffix('.png')}", style="dim"))


def _judge(
    directory: Path, config: LabelConfig, output: Path, model: str | None, device: str, backend: str
) -> dict[str, Any]:
    from outthink.bench.provenance import provenance
    from outthink.learn.rewards.judge import judge as run
    from outthink.learn.rewards.pictures import draw_judgement

    with open_model(model, device, "auto", backend) as policy, shown("judging") as progress:
        with _interrupts_are_told("the lines sampled so far are kept; the same command continues"):
            result = run(directory, policy, config, output, progress, device)
        result |= {"provenance": provenance(policy)}
    _write(output, result)
    draw_judgement(result, output.with_suffix(".png"))
    return result


def _json_file(output: Path) -> None:
    if output.suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    output_file(output)


def _write(output: Path, result: dict[str, Any]) -> None:
    from outthink.learn.checkpoints import write_atomically

    write_atomically(output, result)


@contextmanager
def shown(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Progress as a function of (done, total, what): a bar in a terminal, elsewhere a line every 15 seconds."""
    console, last = err(), -LINE_SECONDS
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None, what="")

        def show(done: int, total: int, what: str) -> None:
            nonlocal last
            progress.update(bar, completed=done, total=total, what=what)
            now = time.monotonic()
            if not console.is_terminal and now - last >= LINE_SECONDS:
                last = now
                console.print(f"{title}: {done:,} of {total:,}, {what}")

        yield show


@contextmanager
def _interrupts_are_told(kept: str) -> Iterator[None]:
    """Say what an interrupted command kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        err().print(f"{stop}; {kept}" if str(stop) else kept, soft_wrap=True)
        raise
