"""``outthink quantize``: a smaller model of the same shape, its layers rounded to 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outthink.cli.console import err, print_json, table
from outthink.cli.console import out as results
from outthink.cli.options import JsonOption, SeedOption
from outthink.core.errors import PromptError, UserError

if TYPE_CHECKING:
    from outthink.learn.quantize import Quantization, Quantized

CHANNEL = "channel"
_LONGEST = 2048


def quantize(
    model: Annotated[str, typer.Argument(help="A directory in the Hugging Face format, a hub id, or a bundled model.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Directory to write, new or of an earlier run; by default MODEL-int4-g32 beside it."
        ),
    ] = None,
    bits: Annotated[int, typer.Option(help="8 or 4.")] = 4,
    group: Annotated[
        str | None, typer.Option(help="Inputs that share a scale: 32, 128 or channel. By default 32 for 4 bits.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="nearest, or by what runs through the layers: clip, gptq. By default gptq, for 8 bits nearest."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A text such as the model will see; else problems of the training split.")
    ] = None,
    documents: Annotated[int, typer.Option(help="Problems to calibrate on.")] = 128,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Round a model's layers and write it as safetensors in the layout of compressed-tensors.

    Embedding, norms and head stay as they are. The compiled kernels compute on what was written as it is; but 8 bits in
    groups they round again, to a scale for each output.
    """
    with err().status("starting"):
        from outthink.learn.quantize import Quantization

    usual = "nearest" if bits == 8 and calibration is None else "gptq"
    how = Quantization(bits, _group(group, bits), method or usual)
    if documents < 1:
        raise UserError(f"--documents {documents} must be at least 1.")
    made = _quantize(model, _target(model, how) if out is None else out, how, calibration, documents, seed)
    if json:
        print_json(
            {"directory": str(made.directory), "bits": bits, "group": how.group, "method": how.method, **_sizes(made)}
        )
        return
    shown = table("model", "bits", "group", "method", "before", "after")
    sizes = [f"{value / 1e6:,.2f} MB" for value in _sizes(made).values()]
    shown.add_row(str(made.directory), str(bits), str(how.group or CHANNEL), how.method, *sizes)
    results().print(shown)


def _quantize(model: str, out: Path, how: Quantization, text: Path | None, count: int, seed: int) -> Quantized:
    from outthink.learn import quantize as learn
    from outthink.learn.calibrate import suite_documents, text_documents
    from outthink.lm.model import resolve
    from outthink.models.checkpoint import load_model
    from outthink.quant.model_directory import check_target

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        bar = progress.add_task("loading", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=what)

        source = resolve(model)
        loaded = load_model(source, expand=False)
        check_target(out, loaded.source)
        longest = min(_LONGEST, loaded.config.max_positions)
        texts: list[list[int]] = []
        if how.method != "nearest" and text is not None:
            texts = text_documents(loaded.tokenizer, _read(text), longest)
        elif how.method != "nearest":
            show(0, count, "drawing problems")
            texts = suite_documents(loaded.tokenizer, "outthink-core", count, longest, seed)
        return learn.quantize(source, out, how, texts, show)


def _target(model: str, how: Quantization) -> Path:
    """Beside a directory; of a bundled model or a hub id, here."""
    source = Path(model).resolve() if Path(model).is_dir() else Path.cwd() / model.rsplit("/", 1)[-1]
    scales = CHANNEL if how.group is None else f"g{how.group}"
    return source.parent / f"{source.name}-int{how.bits}-{scales}"


def _group(group: str | None, bits: int) -> int | None:
    if group is None:
        return 32 if bits == 4 else None
    if group == CHANNEL:
        return None
    if group not in ("32", "128"):
        raise UserError(f"--group {group!r} is not known; known: 32, 128, {CHANNEL}.")
    return int(group)


def _read(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise UserError(f"--calibration {file}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"--calibration {file}: not UTF-8 text.") from error
    if not text.strip():
        raise PromptError(f"--calibration {file} is empty.")
    return text


def _sizes(made: Quantized) -> dict[str, int]:
    return {"bytes_before": made.bytes_before, "bytes_after": made.bytes_after}
