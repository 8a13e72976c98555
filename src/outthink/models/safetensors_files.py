"""Where each tensor of a checkpoint lies, read and checked from the headers of its safetensors files alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from outthink.core.errors import CheckpointError
from outthink.models.fields import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Bytes of an element, by the names of the safetensors format.
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_EXECUTABLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its safetensors dtype (``F32``...), its shape, its file, and where its data begins there."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    def map(self) -> NDArray[Any]:
        """The tensor mapped from its file, read-only. bfloat16 comes as its bits, uint16: NumPy has no such type.

        Only of the types in `FLOATS`.
        """
        dtype = np.dtype(np.uint16 if self.dtype == "BF16" else FLOATS[self.dtype]).newbyteorder("<")
        if 0 in self.shape:  # which cannot be mapped
            return np.empty(self.shape, dtype)
        return np.memmap(self.file, dtype, "r", self.start, self.shape)


def find_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in ``directory``, by name, without reading any data.

    Raises CheckpointError where there are no safetensors, a shard is missing, or a file is truncated or malformed.
    """
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if not (directory / INDEX).is_file():
        raise CheckpointError(_nothing_to_load(directory))
    index = directory / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: 'weight_map' is missing or no object.")
    shards = sorted({_shard_name(index, name, shard) for name, shard in weight_map.items()})
    missing = [shard for shard in shards if not (directory / shard).is_file()]
    if missing:
        named = next(name for name, shard in weight_map.items() if shard == missing[0])
        raise CheckpointError(f"{directory / missing[0]} is missing; {index.name} says that it holds '{named}'.")
    headers = {shard: read_header(directory / shard) for shard in shards}
    found = {name: tensor for header in headers.values() for name, tensor in header.items()}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise CheckpointError(f"{directory / shard} lacks the tensor '{name}' that {index.name} says it holds.")
        found[name] = headers[shard][name]
    return found


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises CheckpointError where the file is truncated or malformed."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{file}: truncated, or not a safetensors file ({size} bytes, header of {length}).")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: malformed safetensors header: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: malformed safetensors header: no object.")
    header.pop("__metadata__", None)
    tensors = {name: _stored(file, name, entry, 8 + length, size) for name, entry in header.items()}
    try:
        with safe_open(file, framework="np"):
            pass  # checks the rest: that the tensors neither overlap nor leave gaps
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: malformed safetensors file: {error}.") from error
    return tensors


def _stored(file: Path, name: str, entry: object, data_start: int, file_bytes: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
            isinstance(n, int) and n >= 0 for n in shape
        ):
            pass
        case _:
            raise CheckpointError(f"{file}: malformed header entry of tensor '{name}'.")
    if end > (data_bytes := file_bytes - data_start):
        raise CheckpointError(
            f"{file}: truncated: tensor '{name}' ends at byte {end} of the data, of which there are {data_bytes}. "
            "Download or copy the file again."
        )
    if dtype in ITEM_BYTES and end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"{file}: tensor '{name}' of shape {shape} and dtype {dtype} has {end - start} bytes.")
    return StoredTensor(file, dtype, tuple(shape), data_start + start)


def _shard_name(index: Path, name: str, shard: object) -> str:
    # A plain file name, so that an index cannot point outside its directory.
    if not isinstance(shard, str) or shard != Path(shard).name or shard in ("", ".", ".."):
        raise CheckpointError(f"{index}: tensor '{name}' lies in {shard!r}, which is no plain file name.")
    return shard


def _nothing_to_load(directory: Path) -> str:
    names = sorted(file.name for file in directory.iterdir())
    if any(name.endswith(_EXECUTABLE) for name in names):
        where = repr(str(directory))
        return (
            f"{directory} holds only pickled weights ({next(n for n in names if n.endswith(_EXECUTABLE))}), which can "
            "execute code; only safetensors are loaded. If you trust them, convert them with transformers: "
            f"AutoModelForCausalLM.from_pretrained({where}).save_pretrained({where})."
        )
    others = [name for name in names if name.endswith(".safetensors")]
    seen = f" (it has {', '.join(others)})" if others else ""
    return f"{directory} has neither {SINGLE} nor {INDEX}{seen}."
