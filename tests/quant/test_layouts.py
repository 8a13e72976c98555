"""Layouts of quantized weights against oracles that follow their definitions number by number."""

import numpy as np
import pytest
import torch

from outthink.core.errors import CheckpointError
from outthink.kernels.coded import CodedWeight
from outthink.quant.layouts import AwqLayout, GptqLayout, IntLayout, PackedLayout
from outthink.quant.packing import num_words, pack, unpack
from outthink.quant.scheme import read_layout, write_scheme

SHAPE = (24, 80)
GROUPS = {"32": 32, "16": 16, "whole": None}
RNG = np.random.default_rng(0)


def words_of(numbers, bits):
    """int32 words of non-negative numbers, one after another from the lowest bit up."""
    total = sum(int(number) << (bits * place) for place, number in enumerate(numbers))
    count = -(-len(numbers) * bits // 32)
    return np.array([(total >> (32 * k)) & 0xFFFFFFFF for k in range(count)], np.uint32).view(np.int32)


def expand(codes, scales, zeros, group):
    """The weight [out, in] of codes [out, in], scales and zeros [out, groups], by the definition."""
    rows, columns = codes.shape
    size = columns if group is None else group
    made = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            g = column // size
            made[row, column] = (int(codes[row, column]) - int(zeros[row, g])) * np.float32(scales[row, g])
    return made


def draw(bits, group, shape=SHAPE):
    """Unsigned codes [out, in], float16 scales and unsigned zeros [out, groups]."""
    rows, columns = shape
    groups = 1 if group is None else -(-columns // group)
    codes = RNG.integers(1 << bits, size=shape)
    scales = RNG.uniform(0.01, 0.1, size=(rows, groups)).astype(np.float16)
    return codes, scales, RNG.integers(1 << bits, size=(rows, groups))


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def value(weight):
    return (weight.dequantize() if isinstance(weight, CodedWeight) else weight).numpy()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 33])
def test_packing(bits, columns):
    numbers = RNG.integers(1 << bits, size=(5, columns))
    packed = pack(tensor(numbers), bits)
    assert packed.shape == (5, num_words(columns, bits))
    assert np.array_equal(packed.numpy(), np.stack([words_of(row, bits) for row in numbers]))
    assert np.array_equal(unpack(packed, bits, columns).numpy(), numbers)


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed(bits, group, symmetric):
    codes, scales, zeros = draw(bits, group)
    half = 1 << (bits - 1)
    layout = PackedLayout(bits, group, symmetric)
    parts = {
        "weight_packed": tensor(np.stack([words_of(row, bits) for row in codes])),
        "weight_scale": tensor(scales),
        "weight_shape": torch.tensor(SHAPE),
    }
    if not symmetric:
        parts["weight_zero_point"] = tensor(np.stack([words_of(column, bits) for column in zeros.T], axis=1))
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        name: part.shape for name, part in layout.parts(SHAPE).items() if name in parts
    }
    expected = expand(codes, scales, np.full_like(zeros, half) if symmetric else zeros, group)
    assert np.array_equal(value(layout.decode(parts, SHAPE)), expected)


@pytest.mark.parametrize("layout", [PackedLayout(4, 32), PackedLayout(8, None), IntLayout(8, None), IntLayout(8, 16)])
def test_what_is_written_is_read(layout):
    size = layout.group or SHAPE[1]
    low, high = (-8, 8) if layout.bits == 4 else (-128, 128)
    codes = tensor(RNG.integers(low, high, size=SHAPE).astype(np.int8))
    weight = CodedWeight(codes, torch.rand(SHAPE[0], -(-SHAPE[1] // size)), layout.bits, size)
    parts = layout.encode(weight)
    names = {torch.int32: "I32", torch.int64: "I64", torch.int8: "I8", torch.float32: "F32"}
    for suffix, part in parts.items():
        expected = layout.parts(SHAPE)[suffix]
        assert tuple(part.shape) == expected.shape and names[part.dtype] in expected.dtypes
    read = layout.decode(parts, SHAPE)
    assert isinstance(read, CodedWeight) and read.zeros is None
    assert torch.equal(read.codes, codes) and torch.equal(read.scales, weight.scales)


def gptq_parts(codes, scales, stored_zeros, bits):
    return {
        "qweight": tensor(np.stack([words_of(row, bits) for row in codes], axis=1)),
        "qzeros": tensor(np.stack([words_of(column, bits) for column in stored_zeros.T])),
        "scales": tensor(scales.T),
    }


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize(("bits", "offset"), [(4, 1), (4, 0), (8, 1)])
def test_gptq(bits, offset, group):
    codes, scales, zeros = draw(bits, group)
    parts = gptq_parts(codes, scales, (zeros - offset) % (1 << bits), bits)
    layout = GptqLayout(bits, group, offset)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        name: part.shape for name, part in layout.parts(SHAPE).items() if name in parts
    }
    expected = expand(codes, scales, zeros, group)
    assert np.array_equal(value(layout.decode(parts, SHAPE)), expected)
    in_order = torch.arange(SHAPE[1]) // (group or SHAPE[1])
    assert isinstance(layout.decode(parts | {"g_idx": in_order.int()}, SHAPE), CodedWeight)
    # Read with the other offset, every zero point is one off.
    other = value(GptqLayout(bits, group, 1 - offset).decode(parts, SHAPE))
    assert (other != expected).all()


def test_symmetric_gptq_has_no_zeros():
    codes, scales, _ = draw(4, 32)
    parts = gptq_parts(codes, scales, np.full((SHAPE[0], 3), 7), 4)
    read = GptqLayout(4, 32, 1).decode(parts, SHAPE)
    assert isinstance(read, CodedWeight) and read.zeros is None


def test_activation_order():
    codes, scales, zeros = draw(4, 16)
    parts = gptq_parts(codes, scales, (zeros - 1) % 16, 4)
    order = RNG.permutation(SHAPE[1]) // 16
    expected = np.stack(
        [(codes[:, i] - zeros[:, g]) * scales[:, g].astype(np.float32) for i, g in enumerate(order)], axis=1
    )
    read = GptqLayout(4, 16, 1).decode(parts | {"g_idx": tensor(order.astype(np.int32))}, SHAPE)
    assert isinstance(read, torch.Tensor) and np.array_equal(read.numpy(), expected)
    for beyond in (5, -1):
        order[3] = beyond
        with pytest.raises(CheckpointError, match="g_idx names groups beyond the 5"):
            GptqLayout(4, 16, 1).decode(parts | {"g_idx": tensor(order.astype(np.int32))}, SHAPE)


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_awq(group):
    """A word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 of its eight, lowest bits first."""
    codes, scales, zeros = draw(4, group)

    def words(numbers):
        """[..., out] as [..., out / 8] words."""
        eights = numbers.reshape(len(numbers), -1, 8)
        return np.stack([[words_of(eight[[0, 2, 4, 6, 1, 3, 5, 7]], 4)[0] for eight in row] for row in eights])

    parts = {"qweight": tensor(words(codes.T)), "qzeros": tensor(words(zeros.T)), "scales": tensor(scales.T)}
    layout = AwqLayout(group)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        name: part.shape for name, part in layout.parts(SHAPE).items()
    }
    assert np.array_equal(value(layout.decode(parts, SHAPE)), expand(codes, scales, zeros, group))


@pytest.mark.parametrize("layout", [PackedLayout(4, 32), PackedLayout(4, None), IntLayout(8, None), IntLayout(8, 128)])
def test_schemes_are_read_as_written(layout):
    assert read_layout(write_scheme(layout), "config.json") == layout


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
PACKED = write_scheme(PackedLayout(4, 32))


def changed(**weights):
    group = PACKED["config_groups"]["group_0"]
    return PACKED | {"config_groups": {"g": group | {"weights": group["weights"] | weights}}}


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [
        (GPTQ, GptqLayout(4, 128, 1)),
        (GPTQ | {"group_size": -1, "bits": 8}, GptqLayout(8, None, 1)),
        (GPTQ | {"checkpoint_format": "gptq_v2"}, GptqLayout(4, 128, 0)),
        (AWQ, AwqLayout(64)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMM"}, AwqLayout(128)),
        (changed(symmetric=False, group_size=64), PackedLayout(4, 64, False)),
    ],
)
def test_schemes_of_others(scheme, layout):
    assert read_layout(scheme, "config.json") == layout


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported; known: compressed-tensors, gptq, awq"),
        ({}, "quant_method None"),
        (GPTQ | {"bits": 3}, "'bits' is 3"),
        (GPTQ | {"bits": True}, "'bits' is True"),
        (GPTQ | {"group_size": 0}, "'group_size' is 0"),
        (GPTQ | {"group_size": "128"}, "'group_size' is '128'"),
        (GPTQ | {"checkpoint_format": "marlin"}, "'marlin' is not supported"),
        (AWQ | {"version": "gemv"}, "AWQ version 'gemv'"),
        (AWQ | {"bits": 8}, "AWQ of 8 bits"),
        (PACKED | {"format": "float-quantized"}, "'float-quantized' is not supported"),
        (PACKED | {"config_groups": {}}, "'config_groups' is missing"),
        (PACKED | {"config_groups": {"g": None}}, "'weights' is missing"),
        (PACKED | {"config_groups": []}, "'config_groups' is missing"),
        (PACKED | {"kv_cache_scheme": {"num_bits": 8}}, "'kv_cache_scheme'"),
        (PACKED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        (changed(num_bits=2), "'num_bits' is 2"),
        (changed(type="float"), "'type' 'float'"),
        (changed(strategy="block"), "strategy 'block'"),
        (changed(group_size=None), "needs a 'group_size'"),
        (changed(symmetric="yes"), "'symmetric' is 'yes'"),
    ],
)
def test_schemes_that_are_refused(scheme, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_layout(scheme, "config.json")
    assert str(caught.value).startswith("config.json: ")
