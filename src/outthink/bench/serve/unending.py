"""The other server's weights, with an end token that the model never writes: every answer has the tokens asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from outthink.bench.engine.weights import Subject
from outthink.core.errors import CapabilityError


def unending_gguf(subject: Subject, kind: str, directory: Path) -> Path:
    """A GGUF file of ``subject`` whose end token is the one for padding, made in ``directory``.

    Ours is asked not to heed the end token; llama-cpp-python's server knows no such option. Raises CapabilityError
    for a model without a token for padding.
    """
    from outthink.quant.gguf import write_gguf

    copy = directory / "unending"
    shutil.copytree(subject.directory, copy)
    config = json.loads((copy / "config.json").read_text())
    padding = config.get("pad_token_id")
    if not isinstance(padding, int):
        raise CapabilityError(
            f"{subject.name} has no token for padding, which the other server is to take for the end."
        )
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": padding}))
    path = write_gguf(copy, directory / "model.gguf", kind)
    shutil.rmtree(copy)
    return path
