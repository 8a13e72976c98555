"""Typed reading of a JSON object, with errors that name the file, the key and the value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outthink.core.errors import CheckpointError

REQUIRED = object()


class Fields:
    """A JSON object read key by key. A null counts as absent, except where a method says otherwise.

    Every method raises CheckpointError for a value of the wrong type and for a required key that is absent.
    """

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where

    def error(self, message: str) -> CheckpointError:
        """An error to raise, with the place in front of ``message``."""
        return CheckpointError(f"{self.where}: {message}")

    def integer(self, key: str, default: Any = REQUIRED) -> int:
        """A positive whole number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"'{key}' is {value!r}; expected a positive whole number.")
        return value

    def optional_integer(self, key: str, absent: int | None = None) -> int | None:
        """A positive whole number, or None where the file says null; ``absent`` where the key is missing."""
        if self.raw.get(key, absent) is None:
            return None
        return self.integer(key, absent)

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A positive finite number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(f"'{key}' is {value!r}; expected a positive number.")
        return float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"'{key}' is {value!r}; expected true or false.")
        return value

    def text(self, key: str, default: Any = REQUIRED) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(f"'{key}' is {value!r}; expected a string.")
        return value

    def token_ids(self, key: str, absent: tuple[int, ...] = ()) -> tuple[int, ...]:
        """One token id or a list of them; empty where the file says null."""
        value = self.raw.get(key, list(absent))
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
            raise self.error(f"'{key}' is {value!r}; expected a token id or a list of token ids.")
        return tuple(ids)

    def _value(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        if value is None:
            value = default
        if value is REQUIRED:
            raise self.error(f"'{key}' is missing.")
        return value


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``. Raises CheckpointError where there is no file, or it holds anything else."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}.") from error
    except RecursionError:
        raise CheckpointError(f"{file}: not valid JSON: nested too deeply.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(value).__name__}.")
    return value
