"""``outthink serve``: the OpenAI-compatible server and its page."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from outthink.cli.console import err
from outthink.cli.options import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    KvOption,
    ThreadsOption,
    WeightsOption,
    open_model,
)
from outthink.core.errors import EngineError, UserError

ASKS, LIMITS, KEEPS = "Who may ask", "How much", "What is written down"


class LogFormat(StrEnum):
    """How lines of the log are written."""

    text = "text"
    json = "json"


def serve(
    model: Annotated[str | None, typer.Argument(help="A directory, a hub id, or a bundled model's name.")] = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; any but this machine's own needs an API key.", rich_help_panel=ASKS
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 takes any that is free.", rich_help_panel=ASKS)
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file with one key a line; else the variable OUTTHINK_API_KEY.", rich_help_panel=ASKS),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; by default its own name.", rich_help_panel=ASKS)
    ] = None,
    max_running: Annotated[int, typer.Option(help="Requests worked on at once.", rich_help_panel=LIMITS)] = 64,
    max_waiting: Annotated[
        int, typer.Option(help="Requests that may wait; the next is answered 429.", rich_help_panel=LIMITS)
    ] = 512,
    max_tokens: Annotated[
        int, typer.Option(help="Positions that one request may come to, on all branches.", rich_help_panel=LIMITS)
    ] = 1 << 18,
    deadline: Annotated[float, typer.Option(help="Seconds that one request may take.", rich_help_panel=LIMITS)] = 600.0,
    drain: Annotated[
        float,
        typer.Option(help="Seconds that requests in flight have when it is told to stop.", rich_help_panel=LIMITS),
    ] = 30.0,
    log_format: Annotated[
        LogFormat, typer.Option(help="Lines of the log as text, or a JSON object each.", rich_help_panel=KEEPS)
    ] = LogFormat.text,
    log_prompts: Annotated[
        bool,
        typer.Option(
            "--log-prompts", help="Write what clients send into the log; it is left out else.", rich_help_panel=KEEPS
        ),
    ] = False,
    otel: Annotated[
        bool,
        typer.Option(
            "--otel", help="Send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says.", rich_help_panel=KEEPS
        ),
    ] = False,
    database: Annotated[
        str | None,
        typer.Option(
            help="SQLAlchemy URL of the job database; by default SQLite under ~/.local/state.", rich_help_panel=KEEPS
        ),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    kv: KvOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve a model: OpenAI's API, thinking by one more field, and a page to watch it at /."""
    try:
        from outthink.serve.app import make_app
        from outthink.serve.config import ServeConfig, default_state_directory
        from outthink.serve.connection import connections
        from outthink.serve.logs import set_up_logging
        from outthink.serve.process import GracefulServer
        from outthink.serve.tracing import open_tracing
    except ModuleNotFoundError as error:
        raise UserError(
            f"Serving needs the package {error.name!r}: install them all with pip install 'outthink[serve]'."
        ) from error
    config = ServeConfig(
        host=host,
        port=port,
        api_keys=_keys(api_key_file),
        served_name=name,
        max_running=max_running,
        max_waiting=max_waiting,
        max_tokens=max_tokens,
        deadline=deadline,
        drain=drain,
        log_prompts=log_prompts,
        database=database or f"sqlite:///{default_state_directory() / 'jobs.db'}",
    )
    set_up_logging(log_format, log_prompts)
    tracing = open_tracing(otel)
    with open_model(model, device, dtype, backend, None, weights, kv, threads) as loaded:
        listener = _listen(host, port)
        app = make_app(loaded, config, tracing)
        shown = f"[{host}]" if ":" in host else host
        where = f"http://{shown}:{listener.getsockname()[1]}/"
        err().print(f"serving {config.served_name or loaded.name} on {where} (ctrl-C stops it)", soft_wrap=True)
        server = GracefulServer(connections(app, config), app.app.state.service.gate, config.drain)
        with suppress(KeyboardInterrupt):  # by then it has stopped
            server.run(sockets=[listener])
        if server.forced_by is not None:
            raise typer.Exit(128 + server.forced_by)
        if not server.started:
            raise EngineError("The server did not start; what it said last is above.")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError where the system refuses."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise UserError(f"Cannot listen on {host}, port {port}: {error.strerror}. Name another --port.") from error


def _keys(file: Path | None) -> tuple[str, ...]:
    if file is not None:
        try:
            lines = file.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the API keys in {file}: {error}.") from error
        if not lines:
            raise UserError(f"{file} holds no API key: write one a line.")
        return tuple(lines)
    key = os.environ.get("OUTTHINK_API_KEY")
    return (key,) if key else ()
