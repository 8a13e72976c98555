"""The GGUF container, version 3: typed metadata and named tensors in one little-endian file.

Source: ``docs/gguf.md`` of ggml. Reading believes nothing that the file says: every count is held against the bytes
that are left before anything is made of it.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import CheckpointError
from outthink.quant.ggml import TensorType, WrittenType
from outthink.quant.ggml_read import BY_NUMBER

MAGIC, VERSIONS, VERSION = b"GGUF", (2, 3), 3
ALIGNMENT = 32
MAX_AXES = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Type numbers of metadata values, as struct reads them.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_NESTING = 4
_MAX_ALIGNMENT = 1 << 20


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a file. ``shape`` has the slowest axis first, as in NumPy; ``data`` are its bytes, mapped."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def values(self) -> NDArray[np.float32]:
        """The tensor as float32, dequantized."""
        return self.kind.decode(self.data).reshape(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """What a file holds: metadata by key (numbers, strings, lists of them), tensors by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


@dataclass(frozen=True)
class Entry:
    """A tensor to write: its bytes are ``kind.encode(values)``, made when they are written."""

    name: str
    kind: WrittenType
    values: NDArray[np.float32]


def write_file(file: Path, metadata: Mapping[str, Any], tensors: Iterable[Entry]) -> None:
    """Write a GGUF file. Integers become uint32 where they fit, floats float32, lists arrays of their first's type."""
    entries = list(tensors)
    with file.open("wb") as out:
        out.write(MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(metadata)))
        for key, value in metadata.items():
            _write_string(out, key)
            _write_value(out, value)
        offset = 0
        for entry in entries:
            _write_string(out, entry.name)
            shape = entry.values.shape[::-1]
            out.write(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, entry.kind.number, offset))
            size = entry.kind.num_bytes(entry.values.size)
            offset += size + -size % ALIGNMENT
        for entry in entries:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            out.write(entry.kind.encode(entry.values).tobytes())
        out.write(b"\0" * (-out.tell() % ALIGNMENT))


def read_file(file: Path) -> GgufFile:
    """The metadata and tensors of a GGUF file, which stays mapped as long as its tensors are used.

    Raises CheckpointError, naming the tensor or key, for a file that is truncated or malformed, and for tensor types
    other than F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K.
    """
    try:
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError:  # an empty file cannot be mapped
        raise CheckpointError(f"{file}: no GGUF file: it is empty.") from None
    return parse(mapped, str(file))


def parse(data: bytes | mmap.mmap, where: str) -> GgufFile:
    """`read_file` of bytes in memory; ``where`` names them in errors."""
    reader = _Reader(data, where)
    if reader.take(4, "the magic number") != MAGIC:
        raise reader.error("no GGUF file: it does not begin with 'GGUF'")
    version = reader.scalar("I", "the version")
    if version not in VERSIONS:
        raise reader.error(f"GGUF version {version} is not known (2 and 3 are, little-endian)")
    # The shortest tensor entry has 24 bytes, the shortest key and value 13.
    num_tensors, num_keys = reader.count("the number of tensors", 24), reader.count("the number of keys", 13)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = reader.string("a metadata key")
        if key in metadata:
            raise reader.error(f"the metadata key {key!r} occurs twice")
        metadata[key] = reader.value(reader.scalar("I", f"the type of {key!r}"), f"the value of {key!r}")
    infos = [_read_info(reader) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.error(f"'general.alignment' is {alignment!r}; expected a power of two, 8 or more")
    start = reader.position + -reader.position % alignment
    tensors: dict[str, GgufTensor] = {}
    for name, kind, shape, offset in infos:
        if name in tensors:
            raise reader.error(f"the tensor {name!r} occurs twice")
        size, first = kind.num_bytes(math.prod(shape)), start + offset
        if offset % alignment or first + size > len(data):
            raise reader.error(
                f"truncated or malformed: the tensor {name!r} lies at bytes {first} to {first + size} of {len(data)}"
            )
        tensors[name] = GgufTensor(name, kind, shape, np.frombuffer(data, np.uint8, size, first))
    return GgufFile(metadata, tensors)


def _read_info(reader: _Reader) -> tuple[str, TensorType, tuple[int, ...], int]:
    name = reader.string("a tensor's name")
    axes = reader.scalar("I", f"the number of axes of tensor {name!r}")
    if not 1 <= axes <= MAX_AXES:
        raise reader.error(f"the tensor {name!r} has {axes} axes; expected 1 to {MAX_AXES}")
    shape = tuple(reader.scalar("Q", f"the shape of tensor {name!r}") for _ in range(axes))[::-1]
    if 0 in shape:
        raise reader.error(f"the tensor {name!r} of shape {list(shape)} is empty")
    number = reader.scalar("I", f"the type of tensor {name!r}")
    kind = BY_NUMBER.get(number)
    if kind is None:
        known = ", ".join(kind.name for kind in BY_NUMBER.values())
        raise reader.error(
            f"the tensor {name!r} has GGML's type {number}; known: {known}. Requantize it to one of them"
        )
    if shape[-1] % kind.block:
        raise reader.error(f"the tensor {name!r} of shape {list(shape)} has rows of no whole {kind.name} blocks")
    return name, kind, shape, reader.scalar("Q", f"the place of tensor {name!r}")


class _Reader:
    """A position in bytes that are not trusted."""

    def __init__(self, data: bytes | mmap.mmap, where: str) -> None:
        self.data, self.where, self.position = data, where, 0

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}.")

    def take(self, size: int, what: str) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise self.error(f"truncated: {what} has {size} bytes from {self.position} on, the file {len(self.data)}")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def count(self, what: str, least_bytes: int) -> int:
        """How many things follow, of ``least_bytes`` bytes at the least."""
        count, left = self.scalar("Q", what), len(self.data) - self.position
        if count * least_bytes > left:
            raise self.error(f"truncated or malformed: {what} is {count}, with {left} bytes left")
        return count

    def string(self, what: str) -> str:
        taken = self.take(self.count(f"the length of {what}", 1), what)
        try:
            return taken.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY and depth < _MAX_NESTING:
            item = self.scalar("I", f"the type of {what}")
            size = struct.calcsize("<" + _SCALARS[item]) if item in _SCALARS else 8
            count = self.count(f"the length of {what}", size)
            if item in _SCALARS:
                return list(struct.unpack(f"<{count}{_SCALARS[item]}", self.take(count * size, what)))
            return [self.value(item, what, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.error(f"{what} has the type {kind}, which is not known or nested too deeply")
        return self.scalar(_SCALARS[kind], what)


def _write_string(out: BinaryIO, text: str) -> None:
    raw = text.encode("utf-8")
    out.write(struct.pack("<Q", len(raw)) + raw)


def _write_value(out: BinaryIO, value: Any) -> None:
    if isinstance(value, list):
        # Signed, as readers of token types expect.
        kind = _STRING if isinstance(value[0], str) else 6 if isinstance(value[0], float) else 5
        out.write(struct.pack("<IIQ", _ARRAY, kind, len(value)))
        if kind == _STRING:
            for item in value:
                _write_string(out, item)
        else:
            out.write(struct.pack(f"<{len(value)}{_SCALARS[kind]}", *value))
    elif isinstance(value, str):
        out.write(struct.pack("<I", _STRING))
        _write_string(out, value)
    else:
        kind = _BOOL if isinstance(value, bool) else 6 if isinstance(value, float) else 4 if value < 1 << 32 else 10
        out.write(struct.pack("<I" + _SCALARS[kind], kind, value))
