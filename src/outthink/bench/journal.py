"""Records of a long measurement, a JSON line each as it is made, so that a kill loses only what was in flight."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from outthink.core.errors import UserError

Json = dict[str, Any]


class Journal:
    """The records beside ``out``: ``NAME.records.jsonl`` while they are made, ``NAME.records.jsonl.gz`` once packed.

    The first line of both is ``header``, which says what the records are of; those of something else are refused.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self.header = dict(header)
        self.path, self.packed = out.with_suffix(".records.jsonl"), out.with_suffix(".records.jsonl.gz")

    def read(self) -> list[Json]:
        """All records so far, the packed ones first; a last line that a kill cut off is dropped, in the file too.

        Raises UserError for records under another header and for files that hold something else.
        """
        records: list[Json] = []
        if self.packed.is_file():
            with gzip.open(self.packed, "rt", encoding="utf-8") as file:
                records += self._parse(self.packed, _lines(self.packed, file))
        if self.path.is_file():
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                with self.path.open("r+b") as file:
                    file.truncate(len(whole))
            records += self._parse(self.path, whole.splitlines())
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record to the disk."""
        new = not self.path.is_file() or self.path.stat().st_size == 0
        with self.path.open("a", encoding="utf-8") as file:
            lines = (self.header, record) if new else (record,)
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def pack(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace what is on the disk by ``records``, packed; the same records make the same bytes."""
        text = "".join(json.dumps(line) + "\n" for line in (self.header, *records))
        partial = self.packed.with_name(self.packed.name + ".partial")
        partial.write_bytes(gzip.compress(text.encode(), mtime=0))
        partial.replace(self.packed)
        self.path.unlink(missing_ok=True)

    def _parse(self, path: Path, lines: Sequence[str | bytes]) -> list[Json]:
        if not lines:
            return []
        try:
            header, *records = [json.loads(line) for line in lines]
        except ValueError as error:
            raise UserError(
                f"{path} holds something else than records: move it away, or name another --out."
            ) from error
        if header != self.header:
            differing = _differences(header, self.header)
            raise UserError(
                f"{path} holds records of another measurement ({differing}): move it away, or name another --out."
            )
        return records


def _lines(path: Path, file: Iterable[str]) -> list[str]:
    try:
        return list(file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no gzip file that can be read: move it away, or name another --out.") from error


def _differences(before: Any, now: Any, where: str = "") -> str:
    """What differs between two JSON values, as "NAME was X and is Y", a name for each level."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        told = [_differences(before.get(n), now.get(n), f"{where}.{n}" if where else n) for n in names]
        return "; ".join(told)
    return f"{where or 'the first line'} was {_told(before)} and is {_told(now)}"


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value is None else str(value)
