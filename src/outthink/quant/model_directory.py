"""Writing a model's directory: whole or not at all, and over nothing but what was written here before."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from outthink.core.errors import UserError

WEIGHTS = "model.safetensors"
# What tells a file of weights that may be replaced from one that may be the only one there is.
_MARK = {"format": "pt", "written_by": "outthink"}
_OURS = (
    WEIGHTS,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_PARTIAL = ".outthink-partial"


def check_target(target: Path, source: Path | None = None) -> Path:
    """``target`` as an absolute path, of a directory that may be written: new, empty, or one that was written here.

    ``source`` is the model that is read; files beside the weights that are the same in both may be there too. Raises
    UserError, and so nothing is lost, for a directory with anything else in it, and for ``source`` itself.
    """
    try:
        resolved = target.resolve()
        if source is not None and resolved == source.resolve():
            raise UserError(f"{target} is the model that is read: name another directory to write.")
        if not resolved.exists():
            return resolved
        if not resolved.is_dir():
            raise UserError(f"{target} is a file; name a new directory.")
        foreign = sorted(path.name for path in resolved.iterdir() if not _may_go(path, source))
    except OSError as error:
        raise UserError(f"{target} cannot be read: {error.strerror}; name a new directory.") from error
    if WEIGHTS in foreign:
        raise UserError(f"{target} holds a model that was not written by this command; name a new directory.")
    if foreign:
        raise UserError(
            f"{target} holds {foreign[0]!r}, which was not written by this command; name a new directory, or move it."
        )
    return resolved


@contextmanager
def writing_model(target: Path, source: Path | None = None) -> Iterator[Path]:
    """An empty directory to fill, whose files are ``target``'s at the end; `check_target` says what it may hold.

    The old weights go first and the new ones come last: whatever a kill leaves behind is no model rather than parts of
    two. Where the filling fails, ``target`` is as before. Raises UserError where it cannot be written.
    """
    resolved = check_target(target, source)
    partial, new = resolved / _PARTIAL, not resolved.exists()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        yield partial
        old = sorted((path for path in resolved.iterdir() if path != partial), key=lambda path: path.name != WEIGHTS)
        for path in old:
            path.unlink()
        for path in sorted(partial.iterdir(), key=lambda path: path.name == WEIGHTS):
            path.rename(resolved / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if new and not any(resolved.iterdir()):
            resolved.rmdir()


def save_weights(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the weights of a model into ``directory``, with the mark by which they may be replaced later."""
    file = directory / WEIGHTS
    save_file(dict(tensors), file, metadata=_MARK)
    file.chmod(0o644)  # the library makes it private


def _may_go(path: Path, source: Path | None) -> bool:
    if path.is_symlink():
        return False
    if path.name == _PARTIAL:
        return path.is_dir()
    if not path.is_file():
        return False
    if path.name == WEIGHTS:
        return _marked(path)
    if path.name in _OURS:
        # A kill may have left the new weights where they were made.
        return _marked(path.parent / WEIGHTS) or _marked(path.parent / _PARTIAL / WEIGHTS)
    twin = None if source is None else source / path.name
    return twin is not None and twin.is_file() and filecmp.cmp(path, twin, shallow=False)


def _marked(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("written_by") == _MARK["written_by"]
    except (SafetensorError, OSError):
        return False
