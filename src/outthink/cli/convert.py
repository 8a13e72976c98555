"""``outthink convert``: a model directory as a GGUF file, by which llama.cpp runs it, or such a file as a directory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from outthink.cli.console import err, print_json
from outthink.cli.options import JsonOption, user_warnings
from outthink.core.errors import UserError


def convert(
    model: Annotated[str, typer.Argument(help="A .gguf file; or a directory, hub id or bundled model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A directory to write, new or of an earlier run; or a .gguf file.")
    ],
    kind: Annotated[str, typer.Option(help="Of matrices in a .gguf: f32, f16, bf16, q8_0, q4_0.")] = "bf16",
    tokenizer: Annotated[
        Path | None, typer.Option(help="A directory with the tokenizer.json, for a .gguf without one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Turn a GGUF file into a model directory, or a model directory into a GGUF file.

    Q4_0 and Q8_0 layers keep their codes and scales, Q4_1 and Q6_K tensors become float32; whatever cannot be kept
    exactly is refused, except rounding to the kind that was asked for.
    """
    with err().status("converting"):
        reading = model.endswith(".gguf")
        if reading == (out.suffix == ".gguf"):
            raise UserError("One of the two must be a .gguf file: the model to read, or --out to write.")
        if reading:
            from outthink.quant.gguf_import import convert_gguf

            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always", UserWarning)
                made = convert_gguf(model, out, tokenizer)
            for message in user_warnings(warned):
                err().print(Text(f"note: {message}", style="yellow"), soft_wrap=True)
        else:
            if out.is_dir():
                raise UserError(f"{out} is a directory; name a .gguf file in it.")
            from outthink.lm.model import resolve
            from outthink.models.checkpoint import load_model
            from outthink.quant.gguf import write_gguf

            made = write_gguf(load_model(resolve(model), expand=False).source, out, kind)
    if json:
        print_json({"written": str(made)})
    else:
        err().print(Text(f"{made}", style="dim"), soft_wrap=True)
