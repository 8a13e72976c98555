"""Types of GGML that are only read, as llama.cpp puts them into Q4_0 files: Q6_K heads and embeddings, Q4_1 layers.

Source: ``ggml-common.h`` and the dequantizing routines of ``ggml-quants.c``, whose arithmetic in float32 this repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from outthink.quant.ggml import BLOCK, TYPES, Bytes, Floats, TensorType

SUPER_BLOCK = 256


def decode_q4_1(data: Bytes) -> Floats:
    """The values of Q4_1 blocks, flat: float16 scale and least value, then 16 bytes as in Q4_0 but for its shift."""
    blocks = data.reshape(-1, 4 + BLOCK // 2)
    scales, least = _float16(blocks[:, :2]), _float16(blocks[:, 2:4])
    codes = np.concatenate([blocks[:, 4:] & np.uint8(15), blocks[:, 4:] >> np.uint8(4)], axis=1)
    return (codes.astype(np.float32) * scales + least).reshape(-1)


def decode_q6_k(data: Bytes) -> Floats:
    """The values of Q6_K blocks, flat: 128 bytes of low halves of codes, 64 of their upper two bits, 16 int8 scales.

    A float16 scale of the scales comes last. Of either half of a block, 32 bytes hold the low halves of elements 0..31
    and 64..95, the next 32 those of 32..63 and 96..127; one byte of upper bits serves four elements that are 32 apart.
    """
    blocks = data.reshape(-1, 210)
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    lows = np.stack([low & np.uint8(15), low >> np.uint8(4)], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    highs = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    codes = (lows | highs << np.uint8(4)).astype(np.int8) - np.int8(32)
    scales = _float16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return np.multiply(codes.reshape(-1, 16, 16), scales[:, :, None], dtype=np.float32).reshape(-1)


def _float16(pairs: Bytes) -> NDArray[np.float32]:
    """[blocks, 1] of [blocks, 2] bytes."""
    return np.ascontiguousarray(pairs).view(np.float16).astype(np.float32)


BY_NUMBER: dict[int, TensorType] = {
    kind.number: kind
    for kind in (
        *TYPES.values(),
        TensorType("Q4_1", 3, BLOCK, 4 + BLOCK // 2, decode_q4_1),
        TensorType("Q6_K", 14, SUPER_BLOCK, 210, decode_q6_k),
    )
}
