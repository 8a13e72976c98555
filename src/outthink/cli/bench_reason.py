"""``outthink bench reason``: strategies, models and verifiers at equal budgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.bench_report import INTERRUPTED, print_best, print_points, print_rows, tell_files
from outthink.cli.console import err, print_json
from outthink.cli.interrupt import first_interrupt
from outthink.cli.options import BackendOption, DeviceOption, DtypeOption, JsonOption, SeedOption, open_model
from outthink.core.budget import Budget
from outthink.core.errors import UserError

if TYPE_CHECKING:
    from outthink.bench.reason.plan import Progress
    from outthink.bench.reason.run import Stop

EVERY_S = 20.0  # between two lines of progress where stderr is no terminal

StrategiesOption = Annotated[
    str, typer.Option("--strategies", "-s", help="Names with commas between, or 'all'; `outthink methods` lists them.")
]
ModelsOption = Annotated[
    str | None, typer.Option("--models", "-m", help="Models with commas between, each a source or LABEL=SOURCE.")
]
VerifierOption = Annotated[
    str | None,
    typer.Option("--verifier", help="Verifiers with commas between; strategies that ask none run without."),
]
SuiteOption = Annotated[str, typer.Option("--suite", help="Suites or families of problems with commas between.")]
ProblemsOption = Annotated[
    int, typer.Option("--problems", "-n", help="Fresh test problems of each suite and difficulty.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The JSON file; pictures and records go beside it.")]
ConcurrencyOption = Annotated[
    int | None, typer.Option(help="Problems answered at once [default: 8, or 1 where a budget limits seconds].")
]


def reason(
    output: OutOption,
    strategies: StrategiesOption = "greedy,majority-vote,best-of-n,particle-filter,mcts",
    models: ModelsOption = None,
    suite: SuiteOption = "outthink-core",
    difficulties: Annotated[
        str | None, typer.Option("--difficulties", "-d", help="0 easiest, 1 hardest [default: a suite's whole range].")
    ] = None,
    budgets: Annotated[
        str, typer.Option("--budgets", "-b", help="With commas between: tokens, or '1 gflops,4 gflops', or '1 s,5 s'.")
    ] = "500,1k,2k,4k",
    verifier: VerifierOption = None,
    num_problems: ProblemsOption = 100,
    temperature: Annotated[float, typer.Option(help="Of all that is sampled.")] = 1.0,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """Accuracy against compute, for every strategy on the same fresh problems at the same budgets.

    Each answer is on the disk as it comes: after ctrl-C or a kill the same command goes on where it ended.
    """
    from outthink.bench.reason.ground import run
    from outthink.bench.reason.plan import GroundConfig, ModelSource
    from outthink.reason.scale import strategies_named

    config = GroundConfig(
        models=tuple(ModelSource.of(name) for name in split(models, "--models") or [default_model()]),
        strategies=tuple(strategies_named(split(strategies, "--strategies"))),
        budgets=tuple(Budget(amount) for amount in split(budgets, "--budgets")),
        verifiers=known_verifiers(verifier),
        suites=tuple(split(suite, "--suite")),
        difficulties=tuple(number(text, "--difficulties") for text in split(difficulties, "--difficulties")),
        num_problems=num_problems,
        temperature=temperature,
        seed=seed,
    )
    check_output(output, concurrency)

    with watched_run() as (stop, progress):
        opened = partial(open_model, device=device, dtype=dtype, backend=backend)
        result = run(config, output, opened, concurrency=concurrency, stop=stop, progress=progress)
    if json:
        print_json(result)
    else:
        print_points(result)
        print_best(result)
    tell_files(output, result["complete"])


def small_vs_large(
    output: OutOption,
    small: Annotated[str, typer.Option("--small", help="The models that think, with commas between.")],
    large: Annotated[str, typer.Option("--large", help="The model whose greedy line is to be beaten.")],
    strategies: StrategiesOption = "majority-vote,best-of-n,particle-filter,mcts",
    suite: SuiteOption = "outthink-core",
    difficulties: Annotated[
        str | None, typer.Option("--difficulties", "-d", help="0 easiest, 1 hardest; each gets its own panel.")
    ] = "0.1,0.3,0.5,0.7",
    multiples: Annotated[
        str, typer.Option(help="Budgets, as multiples of the FLOPs of the large model's greedy line.")
    ] = "0.5,1,2,4",
    verifier: VerifierOption = None,
    num_problems: ProblemsOption = 100,
    temperature: Annotated[float, typer.Option(help="Of all that is sampled.")] = 1.0,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    json: JsonOption = False,
) -> None:
    """Small models that think, against one greedy line of a large one, at equal FLOPs and by difficulty.

    Each answer is on the disk as it comes: after ctrl-C or a kill the same command goes on where it ended.
    """
    from outthink.bench.reason.plan import ModelSource
    from outthink.bench.reason.versus import VersusConfig, run
    from outthink.reason.scale import strategies_named

    config = VersusConfig(
        small=tuple(ModelSource.of(name) for name in split(small, "--small")),
        large=ModelSource.of(large),
        strategies=tuple(strategies_named(split(strategies, "--strategies"))),
        verifiers=known_verifiers(verifier),
        multiples=tuple(number(text, "--multiples") for text in split(multiples, "--multiples")),
        suites=tuple(split(suite, "--suite")),
        difficulties=tuple(number(text, "--difficulties") for text in split(difficulties, "--difficulties")),
        num_problems=num_problems,
        temperature=temperature,
        seed=seed,
    )
    check_output(output, concurrency)
    with watched_run() as (stop, progress):
        opened = partial(open_model, device=device, dtype=dtype, backend=backend)
        result = run(config, output, opened, concurrency=concurrency, stop=stop, progress=progress)
    if json:
        print_json(result)
    else:
        print_rows(result)
    tell_files(output, result["complete"])


def draw(
    result: Annotated[Path, typer.Argument(help="A JSON file that `bench reason` or `bench small-vs-large` wrote.")],
) -> None:
    """Draw the pictures of a result again, from its JSON alone."""
    import json

    from outthink.bench.reason import picture, versus_picture

    try:
        told = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {result}: {error}.") from error
    match told.get("what") if isinstance(told, dict) else None:
        case picture.WHAT:
            written = picture.draw(told, result)
        case versus_picture.WHAT:
            written = [versus_picture.draw(told, result.with_suffix(".png"))]
        case _:
            raise UserError(f"{result} is no result of `bench reason` or `bench small-vs-large`.")
    err().print(Text(", ".join(map(str, written)), style="dim"), soft_wrap=True)


def split(text: str | None, option: str) -> list[str]:
    """The parts of ``text`` between commas that stand in no brackets; none of None.

    Raises UserError for an empty part.
    """
    parts, depth = [""] if text is not None else [], 0
    for character in text or "":
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    if not all(part.strip() for part in parts):
        raise UserError(f"{option} {text!r} has an empty part: put one comma between two entries, and none at the end.")
    return [part.strip() for part in parts]


def number(text: str, option: str) -> float:
    """The number that ``text`` spells; raises UserError for one that is none."""
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{option}: {text!r} is not a number.") from error


def known_verifiers(text: str | None) -> tuple[str, ...]:
    """The verifiers named with commas between. Raises UnknownNameError for one that is not known, and CheckpointError
    where the model of one is not there.
    """
    from outthink.verify import check_spec

    names = split(text, "--verifier")
    for name in names:
        check_spec(name)
    return tuple(dict.fromkeys(names))


def default_model() -> str:
    """The model that is taken where none is named. Raises UserError where there is none."""
    from outthink.lm.model import bundled_models

    if not (names := bundled_models()):
        raise UserError("No model is bundled with this installation: name one with --models.")
    return names[0]


def check_output(output: Path, concurrency: int | None) -> None:
    """Raise UserError for a file that is no .json, or a concurrency below 1."""
    if output.suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    if output.is_dir():
        raise UserError(f"{output} is a directory; name a file to write.")
    if concurrency is not None and concurrency < 1:
        raise UserError(f"--concurrency {concurrency} must be at least 1.")


@contextmanager
def watched_run() -> Iterator[tuple[Stop, Progress]]:
    """A `Stop` that ctrl-C asks, and a shown progress. Raises typer.Exit with code 130 where it came too early for any
    result.
    """
    from outthink.bench.reason.run import Stop, StoppedError

    stop = Stop()
    try:
        with shown_progress() as progress, first_interrupt(stop):
            yield stop, progress
    except StoppedError as stopped:
        err().print(Text(str(stopped), style="yellow"), soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from stopped


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A function that shows how far the work has come: a bar on a terminal, elsewhere a line every 20 seconds."""
    console = err()
    if not console.is_terminal:
        yield _lines(console.print)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(done: float, total: float, what: str) -> None:
            kind = what.partition(",")[0]
            if kind not in tasks:
                tasks.update({kind: bars.add_task(what, total=total)})
                for other, task in tasks.items():
                    bars.update(task, visible=other == kind)
            bars.update(tasks[kind], completed=done, total=total, description=what)

        yield show


def _lines(write: Callable[..., None]) -> Progress:
    began: dict[str, tuple[float, float]] = {}
    last = time.monotonic()

    def show(done: float, total: float, what: str) -> None:
        nonlocal last
        now, kind = time.monotonic(), what.partition(",")[0]
        start, before = began.setdefault(kind, (now, done))
        if now - last >= EVERY_S and done > before:
            last, left = now, (now - start) * (total - done) / (done - before)
            write(Text(f"{what}: {done / total:.0%}, about {left / 60:.1f} min left"), soft_wrap=True)

    return show
