"""Codes handed to the compiled kernels: taken as they are, or refused."""

import numpy as np
import pytest
import torch
from torch import nn

from cpu_cases import Pages, make_config, make_model, run_chunked
from outthink.core.errors import CapabilityError
from outthink.kernels.coded import CodedWeight
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.cpu.weights import coded_format
from outthink.quant.nearest import round_nearest

ISAS = extension.compiled().usable_isas() if extension.compiled() else []


def coded_tensors(model, bits, group, make=round_nearest):
    tensors = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            tensors[f"{name}.weight"] = make(module.weight.detach(), bits, group)
    return tensors


def logits(model, tokens, isa, **options):
    backend = CpuBackend(model, num_pages=8, threads=1, isa=isa, **options)
    return run_chunked(backend, tokens, Pages(8, seed=0).table(len(tokens)), [20, 7, 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 128)])
@pytest.mark.parametrize("shape", [{}, {"hidden_size": 97, "intermediate_size": 131, "head_dim": 80, "num_heads": 2}])
def test_nearest_codes_equal_what_the_kernels_round_themselves(shape, bits, group, isa):
    config = make_config(**shape)
    model, tokens = make_model(config, seed=1), np.random.default_rng(0).integers(101, size=37).tolist()
    found = coded_format(config, bits, group)
    assert found is not None
    options = {"weight_format": found[0], "group": found[1]}
    expected = logits(model, tokens, isa, **options)
    codes = coded_tensors(model, bits, group)
    assert np.array_equal(logits(model, tokens, isa, tensors=codes, **options), expected)
    # One code moved by one, in the last layer, is seen.
    name = "model.layers.1.mlp.down_proj.weight"
    moved = codes[name].codes.clone()
    moved[0, 0] += 1 if moved[0, 0] < 7 else -1
    codes[name] = CodedWeight(moved, codes[name].scales, bits, codes[name].group)
    assert not np.array_equal(logits(model, tokens, isa, tensors=codes, **options), expected)


def random_codes(weight, bits, group):
    """Every code there is, and scales in no relation to the largest code."""
    generator = torch.Generator().manual_seed(weight.shape[0])
    low, high = (-8, 8) if bits == 4 else (-128, 128)
    size = weight.shape[1] if group is None else group
    codes = torch.randint(low, high, weight.shape, generator=generator).to(torch.int8)
    scales = (torch.rand(weight.shape[0], -(-weight.shape[1] // size), generator=generator) + 0.5) / high / 8
    return CodedWeight(codes, scales.half().float(), bits, size)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 32), (4, 96), (4, 128), (4, 256)])
def test_any_codes_compute_what_they_stand_for(bits, group, isa):
    """Against float32 kernels on the dequantized weights: what is left are int8 activations and the int8 head."""
    config = make_config(hidden_size=128, intermediate_size=288)
    model, tokens = make_model(config, seed=2), np.random.default_rng(0).integers(101, size=37).tolist()
    codes = coded_tensors(model, bits, group, random_codes)
    plain = {name: t.dequantize() if isinstance(t, CodedWeight) else t for name, t in codes.items()}
    expected = logits(model, tokens, isa, tensors=plain, weight_format="float32")
    weight_format, kernel_group = coded_format(config, bits, group)
    found = logits(model, tokens, isa, tensors=codes, weight_format=weight_format, group=kernel_group)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.02 * expected.std()


@pytest.mark.parametrize(
    ("bits", "group", "shape"), [(4, 48, {}), (8, 32, {}), (3, None, {}), (4, 32, {"head_dim": 24})]
)
def test_codes_without_a_kernel_format(bits, group, shape):
    assert coded_format(make_config(**shape), bits, group) is None


def test_misfits_are_refused():
    config = make_config()
    model = make_model(config, seed=2)
    options = {"num_pages": 2, "threads": 1, "weight_format": "int4", "group": 32}
    whole = coded_tensors(model, 4, 32)
    name = "model.layers.1.mlp.up_proj.weight"
    weight = whole[name]
    cases = {
        "Some layers": model.state_dict()[name],
        "symmetric": CodedWeight(weight.codes, weight.scales, 4, 32, torch.ones_like(weight.scales)),
        "float16": CodedWeight(weight.codes, weight.scales * 1.0001, 4, 32),
        "Groups of 24": round_nearest(model.state_dict()[name], 4, 24),
    }
    for message, changed in cases.items():
        with pytest.raises(CapabilityError, match=message):
            CpuBackend(model, tensors=whole | {name: changed}, **options)
    beyond = CodedWeight(weight.codes.clone().fill_(8), weight.scales, 4, 32)
    endless = CodedWeight(weight.codes, weight.scales.clone().fill_(float("inf")), 4, 32)
    for message, changed in {"between -8 and 7": beyond, "finite": endless}.items():
        with pytest.raises(ValueError, match=message):
            CpuBackend(model, tensors=whole | {name: changed}, **options)


def test_shapes_of_scales_are_checked():
    with pytest.raises(ValueError, match="need scales"):
        CodedWeight(torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 1), 4, 32)
