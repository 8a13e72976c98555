"""``outthink bench serve``: our server beside llama-cpp-python's, under the same load."""

from __future__ import annotations

import json as jsons
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.bench_engine import counting_bar
from outthink.cli.console import err, out, output_file, print_json, table, write_text
from outthink.cli.options import JsonOption, SeedOption
from outthink.core.errors import CapabilityError, CheckpointError, UnknownNameError, UserError

if TYPE_CHECKING:
    from outthink.bench.engine.weights import Subject
    from outthink.bench.serve.rounds import LoadConfig
    from outthink.bench.serve.servers import Server

ENVIRONMENTS = ("llama.cpp", "guidellm")


def serve(
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="The JSON file; a picture goes beside it. Needed to measure.")
    ] = None,
    set_up: Annotated[
        bool, typer.Option("--set-up", help="Make the others' environments first: downloads, and minutes of compiling.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A directory or a bundled model.")] = None,
    streams: Annotated[str, typer.Option(help="Requests at once, with commas between.")] = "1,4,16,64",
    rounds: Annotated[int, typer.Option(help="Over all streams and servers.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 30.0,
    prompt_tokens: Annotated[int, typer.Option(help="Of each request.")] = 128,
    output_tokens: Annotated[int, typer.Option(help="Of each request.")] = 64,
    generator: Annotated[str, typer.Option(help="Who makes the load: guidellm or own.")] = "guidellm",
    peer: Annotated[bool, typer.Option(help="Measure llama-cpp-python's server too.")] = True,
    gguf: Annotated[str, typer.Option(help="Of the other server's weights: bf16, f32, f16, q8_0, q4_0.")] = "bf16",
    soak: Annotated[float, typer.Option(help="Minutes of load on our server alone, at the end; 0: none.")] = 0.0,
    threads: Annotated[int, typer.Option(help="Of each server.")] = 2,
    seed: SeedOption = 0,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Of environments and converted weights [default: in the user's cache]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Our server beside llama-cpp-python's, same weights and load: throughput, latencies, errors, memory over time.

    Both servers bear each load in every round. Ctrl-C ends it; finished loads are written. With --streams '' there is
    only the soak.
    """
    from outthink.bench.engine.runners import default_directory
    from outthink.bench.serve.load import Shape
    from outthink.bench.serve.rounds import GENERATORS, LoadConfig

    if output is None and not set_up:
        raise UserError("Say where the result goes with --out FILE.json, or only --set-up.")
    if output is not None and output_file(output).suffix != ".json":
        raise UserError(f"--out {output} must end in .json.")
    for name, value in (("rounds", rounds), ("threads", threads), ("prompt-tokens", prompt_tokens),
                        ("output-tokens", output_tokens)):  # fmt: skip
        if value < 1:
            raise UserError(f"--{name} {value} must be at least 1.")
    if not seconds > 0 or soak < 0:
        raise UserError(f"--seconds {seconds} must be above 0, and --soak {soak} not below.")
    if generator not in GENERATORS:
        raise UnknownNameError("generator", generator, GENERATORS)
    if output is not None and not soak and not streams.strip(" ,"):
        raise UserError("There is nothing to measure: name numbers of --streams, or minutes of --soak.")
    config = LoadConfig(_streams(streams), rounds, seconds, Shape(prompt_tokens, output_tokens), generator, seed)  # type: ignore[arg-type]
    place = directory or default_directory()
    if set_up:
        _set_up(place, peer, config)
    if output is None:
        return
    result = _measure(_subject(model), config, peer, gguf, soak, threads, place, output)
    if json:
        print_json(result)
    else:
        _print(result, output)
    if result["interrupted"]:
        raise KeyboardInterrupt


def _streams(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0,)
    if any(not 1 <= streams <= 512 for streams in found):
        raise UserError(f"--streams {text!r}: write whole numbers from 1 to 512 with commas between, as 1,4,16.")
    return found


def _subject(name: str | None) -> Subject:
    from outthink.bench.engine.weights import Subject
    from outthink.lm.model import resolve

    path = Path(resolve(name))
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: name a directory or a bundled model.")
    return Subject(path.resolve().name, path.resolve())


def _set_up(place: Path, peer: bool, config: LoadConfig) -> None:
    from outthink.bench.engine.runners import set_up

    wanted = {"llama.cpp": peer, "guidellm": config.generator == "guidellm"}
    for name in [environment for environment in ENVIRONMENTS if wanted[environment]]:
        with err().status(f"setting up {name}") as status:
            set_up(name, place, lambda line: status.update(Text(f"{name}: {line[:100]}")))  # noqa: B023
        err().print(Text(f"{name} is ready in {place / name}", style="dim"), soft_wrap=True)


def _measure(
    subject: Subject, config: LoadConfig, peer: bool, gguf: str, minutes: float, threads: int, place: Path, output: Path
) -> dict[str, Any]:
    from outthink.bench.engine.machine import describe, is_busy
    from outthink.bench.serve.memory import Memory
    from outthink.bench.serve.picture import draw
    from outthink.bench.serve.report import report
    from outthink.bench.serve.rounds import Measured, measure
    from outthink.bench.serve.soak import soak

    machine, soaked = describe(threads), None
    if is_busy(machine):
        message = f"the machine is busy ({machine['cores_in_use']:.1f} cores in use): figures will be too low, unevenly"
        err().print(Text(f"warning: {message}.", style="yellow"), soft_wrap=True)
    with ExitStack() as stack, counting_bar() as show:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        python = _python("guidellm", place) if config.generator == "guidellm" and config.streams else None
        show(0, 1, "starting the servers")
        servers = _start(stack, subject, peer and bool(config.streams), gguf, threads, place, work)
        measured = Measured()
        memory = stack.enter_context(Memory(servers))
        if config.streams:
            measured = measure(servers, config, subject.directory, python, memory, work, show)
        if minutes and not measured.interrupted:
            try:
                with Memory(servers[:1]) as alone:
                    soaked = soak(servers[0], minutes, config.shape, config.seed + 7, alone,
                                  lambda done: show(done, 60 * minutes, "soak, seconds"))  # fmt: skip
            except KeyboardInterrupt:  # the loads before it are of use
                measured.interrupted = True
    about = {"model": subject.name, "gguf": gguf if peer else None, "servers": _versions(place, peer, config)}
    command = " ".join(["outthink", *sys.argv[1:]])
    result = report(measured, config, machine, memory.to_json(), soaked, about, command)
    write_text(output, jsons.dumps(result, indent=1) + "\n")
    draw(result, output.with_suffix(".png"))
    return result


def _start(
    stack: ExitStack, subject: Subject, peer: bool, gguf: str, threads: int, place: Path, work: Path
) -> list[Server]:
    from outthink.bench.serve.servers import start_ours, start_theirs
    from outthink.bench.serve.unending import unending_gguf

    servers = [start_ours(subject, threads, work / "ours.log")]
    stack.callback(servers[0].close)
    if peer:
        weights = unending_gguf(subject, gguf, work)
        context = jsons.loads((subject.directory / "config.json").read_text())["max_position_embeddings"]
        python = _python("llama.cpp", place)
        servers.append(start_theirs(weights, python, min(context, 4096), threads, work / "theirs.log"))
        stack.callback(servers[1].close)
    return servers


def _python(environment: str, place: Path) -> Path:
    from outthink.bench.engine.runners import READY

    if not (place / environment / READY).is_file():
        raise CapabilityError(f"No environment in {place / environment}; make it with 'outthink bench serve --set-up'.")
    return place / environment / "bin" / "python"


def _versions(place: Path, peer: bool, config: LoadConfig) -> dict[str, str]:
    import outthink
    from outthink.bench.engine.runners import READY

    found = {"outthink": outthink.__version__}
    packages = {"llama.cpp": ("llama_cpp_python", peer), "guidellm": ("guidellm", config.generator == "guidellm")}
    for environment, (package, used) in packages.items():
        file = place / environment / READY
        if used and file.is_file():
            found[package] = jsons.loads(file.read_text()).get(package, "unknown")
    return found


def _print(result: dict[str, Any], output: Path) -> None:
    made = table("streams", "server", "tokens/s", "first token p50", "p99", "between p50", "p99", "requests", "errors")
    for column in (0, *range(2, 9)):
        made.columns[column].justify = "right"
    for point in result["points"]:
        times = [point[name] for name in ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")]
        shown = ["" if value is None else f"{1000 * value:,.1f} ms" for value in times]
        rate = "" if point["tokens_per_s"] is None else f"{point['tokens_per_s']:,.0f}"
        made.add_row(str(point["streams"]), point["server"], rate, *shown, str(point["requests"]), str(point["errors"]))
    out().print(made)
    for line in _lines(result):
        out().print(Text(line), soft_wrap=True)
    err().print(Text(f"{output}, {output.with_suffix('.png')}", style="dim"), soft_wrap=True)


def _lines(result: dict[str, Any]) -> list[str]:
    """What is told beside the table."""
    lines = []
    for ratio in result["ratios"]:
        if (rate := ratio.get("tokens_per_s")) is not None:
            spread = f"{rate['low']:.2f} to {rate['high']:.2f} over {rate['rounds']} rounds"
            lines.append(f"{ratio['streams']} streams: {rate['median']:.2f}x the tokens per second ({spread})")
    for name, held in result["memory"].items():
        lines.append(f"{name}: {held['first_bytes'] / 1e6:,.0f} to {held['last_bytes'] / 1e6:,.0f} MB of memory")
    if (soaked := result["soak"]) is not None:
        held = soaked["memory"]
        lines.append(
            f"soak of {soaked['minutes']:g} minutes: {soaked['requests']} answers, {soaked['dropped']} clients left, "
            f"{soaked['errors']} errors; {held['first_bytes'] / 1e6:,.0f} to {held['last_bytes'] / 1e6:,.0f} MB, "
            f"{held['growth_bytes_per_min'] / 1e6:+.2f} MB a minute in the second half"
        )
    return lines + [f"no figure: {name}: {reason}" for name, reason in result["missing"].items()]
