"""The application: its commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import outthink
from outthink.cli import (
    batch,
    bench,
    compare,
    convert,
    demo,
    doctor,
    evidence,
    generate,
    methods,
    quantize,
    reward,
    serve,
    solve,
    tasks,
    train,
)
from outthink.cli.console import complain
from outthink.core.errors import OutthinkError, UserError

COMMANDS = (
    "demo",
    "solve",
    "compare",
    "generate",
    "serve",
    "batch",
    "methods",
    "tasks",
    "train",
    "quantize",
    "convert",
    "reward",
    "twist",
    "evidence",
    "bench",
    "doctor",
)
FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130
# Usage errors of the parser below typer; their class has moved between typer's versions.
_ParserError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class Application(TyperGroup):
    """A command group that answers every mistake with one line on stderr and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which a newcomer meets them."""
        return sorted(super().list_commands(ctx), key=lambda name: (*COMMANDS, name).index(name))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line; exits with its code, or returns it where ``standalone_mode`` is off."""
        run = super().main
        code = guard(lambda: run(*args, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def guard(run: Callable[[], Any]) -> int:
    """The exit code of ``run``, its errors told on stderr. A reader that went away ends the command quietly."""
    try:
        code = run()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except _ParserError as error:
        return _usage(error)
    except UserError as error:
        complain(str(error))
        return MISTAKE
    except OutthinkError as error:
        complain(str(error))
        return FAILURE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:  # the disk behind stdout is full, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(f"cannot write the output: {error.strerror or error}")
        return FAILURE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "outthink"
    message = error.format_message().strip()
    if message:  # empty where a group was called without a command: its help has been shown
        complain(f"{message.rstrip('.')}. See '{where} --help'.")
    return error.exit_code


app = typer.Typer(
    name="outthink",
    cls=Application,
    help="Think longer with open-weight language models: a question, a model and a budget in; a posterior over "
    "answers, the tree of reasoning and the bill out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outthink {outthink.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


app.command()(solve.solve)
app.command()(compare.compare)
app.command()(generate.generate)
app.command()(serve.serve)
app.command()(batch.batch)
app.add_typer(methods.app, name="methods")
app.add_typer(tasks.app, name="tasks")
app.command()(train.train)
app.command()(quantize.quantize)
app.command()(convert.convert)
app.add_typer(reward.app, name="reward")
app.command()(evidence.twist)
app.command()(evidence.evidence)
app.add_typer(bench.app, name="bench")
app.command()(doctor.doctor)
app.command()(demo.demo)
