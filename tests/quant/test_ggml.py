"""GGML's blocks against oracles that follow their definition byte by byte."""

import struct

import numpy as np
import pytest

from outthink.quant.ggml import TYPES, join_q4_0, split_q4_0, split_q8_0

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
