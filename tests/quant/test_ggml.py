"""GGML's blocks against oracles that follow their definition byte by byte."""

import struct

import numpy as np
import pytest

from outthink.quant.ggml import TYPES, join_q4_0, split_q4_0, split_q8_0
from outthink.quant.ggml_read import BY_NUMBER

RNG = np.random.default_rng(0)


def blocks():
    """Rows of many sizes, a row of zeros, one of equal numbers, extremes of either sign."""
    rows = (RNG.standard_normal((40, 32)) * 10.0 ** RNG.uniform(-4, 3, (40, 1))).astype(np.float32)
    rows[0], rows[1], rows[2, 5], rows[3, 31] = 0.0, 0.25, -900.0, 900.0
    return rows


def round_half_away(x):
    return int(np.floor(abs(x) + np.float32(0.5))) * (1 if x > 0 else -1)


def test_q8_0():
    rows = blocks()
    expected = b""
    for row in rows:
        scale = np.float32(np.abs(row).max()) / np.float32(127)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        expected += np.float16(scale).tobytes() + bytes(round_half_away(x * inverse) & 0xFF for x in row)
    data = TYPES["Q8_0"].encode(rows)
    assert data.tobytes() == expected
    decoded = []
    for start in range(0, len(expected), 34):
        (scale,) = struct.unpack("<e", expected[start : start + 2])
        decoded += [np.float32(scale) * code for code in struct.unpack("<32b", expected[start + 2 : start + 34])]
    assert np.array_equal(TYPES["Q8_0"].decode(data), np.array(decoded, np.float32))
    codes, scales = split_q8_0(data)
    assert codes.shape == (40, 32) and scales.shape == (40,)


def test_q4_0():
    rows = blocks()
    expected = b""
    for row in rows:
        scale = row[np.abs(row).argmax()] / np.float32(-8)
        inverse = np.float32(1) / scale if scale else np.float32(0)
        codes = [min(15, int(x * inverse + np.float32(8.5))) for x in row]
        expected += np.float16(scale).tobytes() + bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
    data = TYPES["Q4_0"].encode(rows)
    assert data.tobytes() == expected
    decoded = []
    for start in range(0, len(expected), 18):
        (scale,) = struct.unpack("<e", expected[start : start + 2])
        halves = expected[start + 2 : start + 18]
        decoded += [np.float32(scale) * (byte % 16 - 8) for byte in halves]
        decoded += [np.float32(scale) * (byte // 16 - 8) for byte in halves]
    assert np.array_equal(TYPES["Q4_0"].decode(data), np.array(decoded, np.float32))
    codes, scales = split_q4_0(data)
    assert np.array_equal(join_q4_0(codes, scales), data)


def test_q4_1():
    """Read as the definition says, byte by byte."""
    data, expected = b"", []
    for _ in range(30):
        scale, least = RNG.uniform(-1, 1, 2).astype(np.float16)
        codes = RNG.integers(16, size=32)
        data += scale.tobytes() + least.tobytes() + bytes(int(codes[i] | codes[i + 16] << 4) for i in range(16))
        expected += [np.float32(code) * np.float32(scale) + np.float32(least) for code in codes]
    kind = BY_NUMBER[3]
    assert kind.name == "Q4_1" and len(data) == kind.num_bytes(len(expected))
    assert np.array_equal(kind.decode(np.frombuffer(data, np.uint8)), np.array(expected, np.float32))


def q6_k_block(scale, scales, codes):
    """The bytes of 256 codes in -32..31, 16 int8 scales and the scale of these, put together as ggml packs them."""
    shifted = [int(code) + 32 for code in codes]
    low, high = [0] * 128, [0] * 64
    for half in range(2):
        for i in range(32):
            a, b, c, d = (shifted[128 * half + 32 * k + i] for k in range(4))
            low[64 * half + i] = a % 16 + 16 * (c % 16)
            low[64 * half + 32 + i] = b % 16 + 16 * (d % 16)
            high[32 * half + i] = a // 16 + 4 * (b // 16) + 16 * (c // 16) + 64 * (d // 16)
    return bytes(low) + bytes(high) + struct.pack("<16b", *scales) + struct.pack("<e", scale)


def test_q6_k():
    data, expected = b"", []
    for _ in range(8):
        scale = np.float16(RNG.uniform(-1e-3, 1e-3))
        scales, codes = RNG.integers(-128, 128, size=16), RNG.integers(-32, 32, size=256)
        data += q6_k_block(scale, scales, codes)
        expected += [float(scale) * int(scales[i // 16]) * int(codes[i]) for i in range(256)]
    kind = BY_NUMBER[14]
    assert kind.name == "Q6_K" and len(data) == kind.num_bytes(len(expected))
    found = kind.decode(np.frombuffer(data, np.uint8))
    assert np.array_equal(found.astype(np.float64), expected)  # 11 + 7 + 5 bits: float32 holds every product


# What gguf.quants.dequantize of the package gguf 0.19 makes of the blocks below, by type.
ORACLE = {3: 0.4638262603373912, 14: -961.8867690142677}


def test_arbitrary_blocks_are_decoded_as_ggml_does():
    """As sums that see every element's place."""
    bytes_of = np.random.default_rng(7).integers(256, size=210 * 40).astype(np.uint8)
    for number, place, size in ((3, 0, 20), (14, 208, 210)):
        blocks = bytes_of[: size * 40].reshape(40, size).copy()
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        if number == 3:
            blocks[:, 2:4] = np.frombuffer(np.float16(-0.07).tobytes(), np.uint8)
        values = BY_NUMBER[number].decode(blocks.reshape(-1)).astype(np.float64)
        assert float(values @ np.cos(np.arange(values.size))) == pytest.approx(ORACLE[number], rel=1e-9)


def test_bf16_keeps_every_bfloat16_and_rounds_the_rest():
    every = np.arange(1 << 16, dtype=np.uint16)
    values = TYPES["BF16"].decode(every.view(np.uint8))
    kept = TYPES["BF16"].encode(values).view(np.uint16)
    numbers = ~np.isnan(values)
    assert np.array_equal(kept[numbers], every[numbers])
    assert np.isnan(TYPES["BF16"].decode(kept[~numbers].view(np.uint8))).all()
    # Halfway between two neighbours the even one is taken.
    half = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert TYPES["BF16"].encode(half).view(np.uint16).tolist() == [0x3F80, 0x3F82]


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_plain_types(name):
    values = RNG.standard_normal((3, 5)).astype(np.float16).astype(np.float32)
    data = TYPES[name].encode(values)
    assert len(data) == TYPES[name].num_bytes(15)
    assert np.array_equal(TYPES[name].decode(data), values.reshape(-1))
