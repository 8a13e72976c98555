"""The file of labels: gzip JSON Lines that a kill cannot spoil.

Every line is a gzip member of its own, so that a file which was cut anywhere is whole up to its last complete line, and
is continued from there; together they are an ordinary .jsonl.gz. The first line says what the labels are.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from outthink.core.errors import CheckpointError, UserError
from outthink.learn.rewards.records import LabelledProblem

FORMAT = 1
SUFFIX = ".jsonl.gz"
_CHUNK = 1 << 14
_LONGEST_HEADER = 4096


class LabelFile:
    """Labels on their way into ``path``: made, or continued where the settings are the same. A context manager.

    ``done`` holds the places of the problems that are there. Raises UserError where the file holds something else, and
    CheckpointError where it is damaged other than by being cut short.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.done = path, set[int]()
        if not path.name.endswith(SUFFIX):
            raise UserError(f"The file of labels {path} must end in {SUFFIX}.")
        whole = 0
        if path.exists():
            for raw, end in _members(path):
                whole = end
                if "index" in raw:
                    self.done.add(raw["index"])
                else:
                    _check_same(path, raw, settings)
            if whole == 0 and path.stat().st_size > _LONGEST_HEADER:  # not a first line that was cut
                raise UserError(f"{path} is no file of labels; name another file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)  # what was cut in the middle
        if whole == 0:
            self._write({"format": FORMAT, **settings})

    def append(self, found: LabelledProblem) -> None:
        """Write ``found`` so that a kill of this process no longer loses it."""
        self._write(found.to_json())
        self.done.add(found.index)

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(gzip.compress(json.dumps(value).encode() + b"\n", mtime=0))
        self._file.flush()

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def read_labels(path: Path, most_tokens: float | None = None) -> tuple[dict[str, Any], list[LabelledProblem]]:
    """The settings and the labels in ``path``, by place; with ``most_tokens`` the first that cost no more together.

    Raises UserError where there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise UserError(f"There is no file of labels {path}; `outthink reward label` makes one.")
    settings: dict[str, Any] = {}
    found: list[LabelledProblem] = []
    for raw, _ in _members(path):
        if "index" in raw:
            found.append(LabelledProblem.from_json(raw))
        else:
            settings = raw
    if settings.get("format") != FORMAT:
        raise UserError(f"{path} is no file of labels of this version; `outthink reward label` makes one.")
    found.sort(key=lambda record: record.index)
    if most_tokens is not None:
        found = _affordable(found, most_tokens)
    if not found:
        raise UserError(f"{path} holds no labels yet, or none for that many tokens.")
    return settings, found


def _affordable(found: Sequence[LabelledProblem], most_tokens: float) -> list[LabelledProblem]:
    kept, spent = [], 0
    for record in found:
        spent += record.tokens
        if spent > most_tokens:
            break
        kept.append(record)
    return kept


def _members(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Every complete line of ``path`` with the number of bytes up to its end."""
    content, position = memoryview(path.read_bytes()), 0
    while position < len(content):
        stream, text, place = zlib.decompressobj(wbits=31), b"", position
        try:
            while not stream.eof and place < len(content):
                text += stream.decompress(content[place : place + _CHUNK])
                place = min(place + _CHUNK, len(content))
            if not stream.eof:
                return  # cut in the middle of this line
            value = json.loads(text)
        except (zlib.error, ValueError) as error:
            if position == 0:
                raise UserError(f"{path} is no file of labels; name another file.") from error
            raise CheckpointError(
                f"{path} is damaged at byte {position:,} ({error}). Cut it there to keep what comes before: "
                f"truncate -s {position} {path}"
            ) from error
        position = place - len(stream.unused_data)
        yield value, position


def _check_same(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    earlier = {key: value for key, value in earlier.items() if key != "format"}
    now = json.loads(json.dumps(now))
    differing = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    changed = [f"{key} ({earlier.get(key)!r}, now {now.get(key)!r})" for key in differing]
    if changed:
        raise UserError(
            f"{path} holds labels made with other settings: {', '.join(changed)}. Continue it with the same ones, or "
            "name another file."
        )
