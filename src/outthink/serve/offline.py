"""A batch without a server: rows of one file answered into another, which a kill leaves whole."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fastapi import FastAPI

from outthink.core.errors import UserError
from outthink.serve.rows import Result, Row, check_rows, read_rows, run_row
from outthink.serve.service import Service


def read_input(path: Path) -> list[Row]:
    """The rows of a file. Raises UserError, with the lines that are none, before anything is computed."""
    try:
        rows, faults = read_rows(path.read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    if faults:
        told = "; ".join(f"line {fault.line}: {fault.message}" for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path} cannot be a batch: {told}{more}")
    return rows


class Results:
    """The answers in ``output`` and the rows that failed in ``errors``, each written to the disk as it comes.

    `finish` puts both in the order of the input. A file is locked for as long as this is open: close it.
    """

    def __init__(self, output: Path, errors: Path, rows: Sequence[Row], resume: bool) -> None:
        """Raises UserError for files that are there without ``resume``, in use, or of another batch; and where the
        system refuses.
        """
        self.output, self.errors, self._rows = output, errors, rows
        self.lines: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self._writing = threading.Lock()
        if not resume and output.exists() and output.stat().st_size:
            raise UserError(f"{output} is there already: --resume goes on with it; or name another file.")
        try:
            self._file = os.open(output, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._read()
                self._failed = os.open(errors, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            except (UserError, OSError):
                os.close(self._file)
                raise
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {output}; wait for it, or name another file.") from error
        except OSError as error:
            raise _unwritable(Path(error.filename or output), error) from error

    def keep(self, result: Result) -> None:
        """Write what became of a row to the disk. Safe from several threads. Raises UserError where the system
        refuses.
        """
        file, path = (self._failed, self.errors) if result.failed else (self._file, self.output)
        with self._writing:
            try:
                data = result.line.encode() + b"\n"
                while data:
                    data = data[os.write(file, data) :]
                os.fsync(file)
            except OSError as error:
                raise _unwritable(path, error) from error
            (self.failures if result.failed else self.lines)[result.number] = result.line

    def finish(self) -> None:
        """Put the lines in the order of the input; an empty file of errors is removed."""
        _replace(self.output, (self.lines[number] for number in sorted(self.lines)))
        _replace(self.errors, (self.failures[number] for number in sorted(self.failures)))
        if not self.failures:
            self.errors.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._failed):
            os.close(file)

    def _read(self) -> None:
        """Take up the lines that are there; one that a kill cut off is dropped, in the file too."""
        known = {row.custom_id: row for row in self._rows}
        data = self.output.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for text in whole.decode(errors="replace").splitlines():
            row = known.get(_said(text, "custom_id"))
            if row is None or row.id != _said(text, "id"):
                raise UserError(
                    f"{self.output} holds answers to other rows than these (custom_id {_said(text, 'custom_id')!r}): "
                    "give the input that it was begun with, or name another file."
                )
            self.lines[row.number] = text
        os.ftruncate(self._file, len(whole))
        os.lseek(self._file, 0, os.SEEK_END)


async def answer(
    app: FastAPI, service: Service, rows: Sequence[Row], at_once: int, keep: Callable[[Result], None]
) -> None:
    """Answer ``rows``, ``at_once`` at a time; ``keep`` gets what became of each as soon as it is there.

    What can be refused without computing is refused before anything is computed.
    """
    refused = {result.number: result for result in check_rows(service, rows)}
    for result in refused.values():
        keep(result)
    left = iter([row for row in rows if row.number not in refused])
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(rows))):
                group.create_task(_answer_some(app, service, left, keep))
    except ExceptionGroup as failures:  # one is told of; the others fell with it
        raise failures.exceptions[0] from None


async def _answer_some(app: FastAPI, service: Service, left: Iterator[Row], keep: Callable[[Result], None]) -> None:
    for row in left:
        result = await run_row(app, service, "", row)
        if result is not None:
            await asyncio.to_thread(keep, result)


def _said(line: str, name: str) -> str:
    try:
        return str(json.loads(line)[name])
    except (ValueError, KeyError, TypeError):
        return ""


def _replace(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot write {path}: {error.strerror}. What is finished is kept: mend that, then add --resume to go on."
    )
