"""``outthink batch``: a file of requests answered into another file, without a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outthink.cli.console import err, out, output_file, print_json
from outthink.cli.interrupt import first_interrupt
from outthink.cli.options import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KvOption,
    ModelOption,
    ThreadsOption,
    WeightsOption,
    open_model,
)
from outthink.core.errors import EngineError, UserError

if TYPE_CHECKING:
    from outthink.lm.model import Model
    from outthink.serve.config import ServeConfig
    from outthink.serve.offline import Results
    from outthink.serve.rows import Row

INTERRUPTED = 130


def batch(
    rows: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="A request a line: custom_id, url and body, as OpenAI has them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the answers go, a line each.")],
    errors: Annotated[
        Path | None, typer.Option(help="Where the rows that fail go; by default beside the output.")
    ] = None,
    model: ModelOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an output that was begun.")] = False,
    name: Annotated[str | None, typer.Option(help="What the rows call the model; by default its own name.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Rows worked on at once.")] = 32,
    max_tokens: Annotated[int, typer.Option(help="Positions that one row may come to, on all branches.")] = 1 << 18,
    deadline: Annotated[float, typer.Option(help="Seconds that one row may take.")] = 600.0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    kv: KvOption = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a file of requests: chats, completions, embeddings and solves, as the server would.

    Every answer is on the disk before the next row is begun: after a kill, the same command with --resume goes on.
    """
    try:
        from outthink.serve.config import ServeConfig
        from outthink.serve.offline import Results, read_input
    except ModuleNotFoundError as error:
        raise UserError(
            f"Batches need the package {error.name!r}: install them all with pip install 'outthink[serve]'."
        ) from error
    output_file(output)
    beside = output_file(errors or output.with_name(f"{output.stem}.errors.jsonl"))
    if len({path.resolve() for path in (rows, output, beside)}) < 3:
        raise UserError("The rows, the output and the errors must be three files.")
    asked = read_input(rows)
    settings = ServeConfig(
        served_name=name, max_running=at_once, max_waiting=at_once, max_tokens=max_tokens, deadline=deadline,
        database="sqlite://",
    )  # fmt: skip
    with closing(Results(output, beside, asked, resume)) as results:
        before, began = len(results.lines), time.monotonic()
        with open_model(model, device, dtype, backend, None, weights, kv, threads) as loaded:
            stopped = _work(loaded, settings, asked, results)
        summary = {
            "rows": len(asked),
            "answered": len(results.lines),
            "failed": len(results.failures),
            "resumed": before,
            "seconds": time.monotonic() - began,
            "output": str(output),
            "errors": str(beside) if results.failures else None,
        }
        _tell(summary, stopped, json)
    if stopped:
        raise typer.Exit(INTERRUPTED)
    if results.failures:
        raise EngineError(f"{len(results.failures):,} of {len(asked):,} rows failed: see {beside}.")


def _work(model: Model, config: ServeConfig, rows: Sequence[Row], results: Results) -> bool:
    """Answer what is not answered yet; whether that was interrupted."""
    from outthink.serve.app import make_app
    from outthink.serve.offline import answer

    app = make_app(model, config).app
    service = app.state.service
    left = [row for row in rows if row.number not in results.lines]

    async def run(show: Callable[[], None]) -> bool:
        def keep(result: Any) -> None:
            results.keep(result)
            show()

        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(answer(app, service, left, config.max_running, keep))

        def stop() -> None:
            loop.call_soon_threadsafe(task.cancel)

        with first_interrupt(stop):
            await asyncio.wait((task,))
        if task.cancelled():
            return True
        task.result()
        return False

    with _bar(len(rows), len(results.lines)) as show:
        stopped = asyncio.run(run(show))
    if service.model.engine.broken:
        raise EngineError("The engine stopped. What is finished is kept: --resume goes on with it.")
    if not stopped:
        results.finish()
    return stopped


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task("rows", total=total, completed=done)
        yield lambda: progress.advance(task)


def _tell(summary: dict[str, Any], stopped: bool, json: bool) -> None:
    if json:
        print_json({**summary, "interrupted": stopped})
        return
    said = f"{summary['answered']:,} of {summary['rows']:,} rows answered in {summary['output']}"
    if summary["resumed"]:
        said += f", {summary['resumed']:,} of them before"
    out().print(f"{said} ({summary['seconds']:.1f} s)", soft_wrap=True, markup=False)
    if stopped:
        err().print("stopped; the same command with --resume goes on", soft_wrap=True)
