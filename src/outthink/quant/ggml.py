"""The tensor types of GGML that are read and written here, as bytes: F32, F16, BF16, and blocks of 32 with one scale.

A Q8_0 block is a float16 scale and 32 signed bytes. A Q4_0 block is a float16 scale and 16 bytes: byte i holds the
codes, plus 8, of elements i (low half) and i + 16 (high half). Source: ggml's ``ggml-common.h`` and the reference
routines of ``ggml-quants.c``, whose rounding this repeats bit for bit. Q4_1 and Q6_K, which llama.cpp puts into Q4_0
files, are only read: `ggml_read`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCK = 32
LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class TensorType:
    """One of GGML's types. ``block_bytes`` are the bytes of ``block`` elements."""

    name: str
    number: int
    block: int
    block_bytes: int
    decode: Callable[[Bytes], Floats]

    def num_bytes(self, elements: int) -> int:
        """Bytes of so many elements, a multiple of ``block``."""
        return elements // self.block * self.block_bytes


@dataclass(frozen=True)
class WrittenType(TensorType):
    """A type that is written too. ``file_type`` marks files of it."""

    encode: Callable[[Floats], Bytes]
    file_type: int


def encode_q8_0(values: Floats) -> Bytes:
    """Blocks of ``values``, a multiple of 32 along the last axis."""
    blocks = values.astype(np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    # C's roundf: halves go away from zero.
    codes = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)
    return np.concatenate([_float16_bytes(scale), codes.astype(np.int8).view(np.uint8)], axis=1).reshape(-1)


def decode_q8_0(data: Bytes) -> Floats:
    """The values of Q8_0 blocks, flat."""
    codes, scales = split_q8_0(data)
    return (codes.astype(np.float32) * scales[:, None].astype(np.float32)).reshape(-1)


def split_q8_0(data: Bytes) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes [blocks, 32] in -128..127 and scales [blocks] of Q8_0 blocks."""
    blocks = data.reshape(-1, 2 + BLOCK)
    return blocks[:, 2:].view(np.int8), blocks[:, :2].copy().view(np.float16).reshape(-1)


def encode_q4_0(values: Floats) -> Bytes:
    """Blocks of ``values``, a multiple of 32 along the last axis: the largest becomes code -8, whatever its sign."""
    blocks = values.astype(np.float32).reshape(-1, BLOCK)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = extreme / np.float32(-8)
    codes = np.minimum(np.trunc(blocks * _inverse(scale) + np.float32(8.5)), 15).astype(np.int8) - np.int8(8)
    return join_q4_0(codes, scale.astype(np.float16).reshape(-1))


def decode_q4_0(data: Bytes) -> Floats:
    """The values of Q4_0 blocks, flat."""
    codes, scales = split_q4_0(data)
    return (codes.astype(np.float32) * scales[:, None].astype(np.float32)).reshape(-1)


def join_q4_0(codes: NDArray[np.int8], scales: NDArray[np.float16]) -> Bytes:
    """Q4_0 blocks of codes [blocks, 32] in -8..7 and scales [blocks]."""
    shifted = (codes + np.int8(8)).astype(np.uint8)
    halves = shifted[:, : BLOCK // 2] | shifted[:, BLOCK // 2 :] << np.uint8(4)
    return np.concatenate([_float16_bytes(scales[:, None]), halves], axis=1).reshape(-1)


def split_q4_0(data: Bytes) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes [blocks, 32] in -8..7 and scales [blocks] of Q4_0 blocks."""
    blocks = data.reshape(-1, 2 + BLOCK // 2)
    halves = blocks[:, 2:]
    codes = np.concatenate([halves & np.uint8(15), halves >> np.uint8(4)], axis=1).astype(np.int8) - np.int8(8)
    return codes, blocks[:, :2].copy().view(np.float16).reshape(-1)


def encode_bf16(values: Floats) -> Bytes:
    """bfloat16 by rounding to nearest, ties to even; not-a-numbers stay such."""
    bits = values.astype(np.float32).reshape(-1).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)
    return np.where(bits & np.uint32(0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16).view(np.uint8)


def decode_bf16(data: Bytes) -> Floats:
    """bfloat16 as float32, exactly."""
    return (data.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def _encode_f32(values: Floats) -> Bytes:
    return values.astype(np.float32).reshape(-1).view(np.uint8)


def _decode_f32(data: Bytes) -> Floats:
    return data.view(np.float32)


def _encode_f16(values: Floats) -> Bytes:
    return values.astype(np.float16).reshape(-1).view(np.uint8)


def _decode_f16(data: Bytes) -> Floats:
    return data.view(np.float16).astype(np.float32)


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _float16_bytes(scale: NDArray[np.floating]) -> Bytes:
    return np.ascontiguousarray(scale.astype(np.float16)).view(np.uint8)


TYPES = {
    kind.name: kind
    for kind in (
        WrittenType("F32", 0, 1, 4, _decode_f32, _encode_f32, 0),
        WrittenType("F16", 1, 1, 2, _decode_f16, _encode_f16, 1),
        WrittenType("BF16", 30, 1, 2, decode_bf16, encode_bf16, 32),
        WrittenType("Q8_0", 8, BLOCK, 2 + BLOCK, decode_q8_0, encode_q8_0, 7),
        WrittenType("Q4_0", 2, BLOCK, 2 + BLOCK // 2, decode_q4_0, encode_q4_0, 2),
    )
}
