"""Calibrated rounding against enumeration, and against what it must not be."""

import itertools

import pytest
import torch

from cpu_cases import make_config, make_model
from outthink.kernels.reference.dense import dense_attend
from outthink.learn.calibrate import input_moments, linears, round_layers
from outthink.quant import gptq
from outthink.quant.gptq import round_calibrated, round_clipped, rounding_error
from outthink.quant.nearest import best_scales, round_nearest


def correlated(columns, generator, share=0.8):
    """The second moment of inputs of which a share is common to all."""
    common = torch.randn(400, 1, generator=generator)
    x = share * common + (1 - share) * torch.randn(400, columns, generator=generator)
    return (x.T @ x).double() / 400


def test_nearest_by_enumeration():
    """Of all 16 codes for each weight none is closer."""
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    coded = round_nearest(weight, 4, 32)
    scale = coded.scales.repeat_interleave(32, dim=1)
    every = torch.arange(-8, 8)[:, None, None] * scale
    closest = (every - weight).abs().amin(0)
    assert torch.equal((coded.dequantize() - weight).abs(), closest)
    # The chosen scale is the best of the four that are tried.
    for row, group in itertools.product(range(5), range(2)):
        part = weight[row, 32 * group : 32 * group + 32]
        extreme = part[part.abs().argmax()]
        errors = []
        for share in (1.0, 0.92, 0.85, 0.78):
            tried = (extreme * share / -8).half().float()
            errors.append((((part / tried).round().clamp(-8, 7) * tried - part) ** 2).sum())
        found = ((coded.dequantize()[row, 32 * group : 32 * group + 32] - part) ** 2).sum()
        torch.testing.assert_close(found, min(errors))


def test_gptq_lies_between_the_optimum_and_nearest_codes():
    """With 4 inputs all combinations of nearby codes can be tried; on its own scales, so that codes alone differ."""
    generator = torch.Generator().manual_seed(1)
    best = found = plain = 0.0
    for _ in range(10):
        weight, moment = torch.randn(1, 4, generator=generator), correlated(4, generator)
        coded = round_calibrated(weight, moment, 4, None)
        scale = coded.scales[0, 0].double()
        down = (weight[0].double() / scale).floor()
        choices = [
            torch.clamp(down + torch.tensor(step), -8, 7) * scale for step in itertools.product((-1, 0, 1, 2), repeat=4)
        ]
        errors = [rounding_error(weight, choice[None], moment) for choice in choices]
        nearest = (weight / scale).round().clamp(-8, 7) * scale
        mine = rounding_error(weight, coded.dequantize(), moment)
        assert min(errors) <= mine * (1 + 1e-9)
        best, found, plain = best + min(errors), found + mine, plain + rounding_error(weight, nearest, moment)
    assert found < 0.5 * plain
    assert found < 2.0 * best


def test_uncorrelated_inputs_of_one_size_leave_nothing_to_make_good():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    coded, clipped = (rounding(weight, torch.eye(64), 4, 32) for rounding in (round_calibrated, round_clipped))
    assert torch.equal(coded.codes, clipped.codes) and torch.equal(coded.scales, clipped.scales)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (4, None), (8, None)])
def test_calibrated_beats_nearest_where_inputs_are_correlated(bits, group, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    weight, moment = torch.randn(16, 200, generator=generator), correlated(200, generator)
    error = {
        name: rounding_error(weight, rounding().dequantize(), moment)
        for name, rounding in {
            "nearest": lambda: round_nearest(weight, bits, group),
            "gptq": lambda: round_calibrated(weight, moment, bits, group),
        }.items()
    }
    assert error["gptq"] < 0.25 * error["nearest"]
    # Broken: errors are spread by the factor's transpose, that is over columns that are done.
    factor = gptq._inverse_factor
    monkeypatch.setattr(gptq, "_inverse_factor", lambda moment: factor(moment).T)
    broken = rounding_error(weight, round_calibrated(weight, moment, bits, group).dequantize(), moment)
    assert broken > 2 * error["gptq"]


def test_inputs_that_never_occur():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(4))
    moment = torch.zeros(64, 64)
    moment[:8, :8] = torch.eye(8)
    for rounding in (round_calibrated, round_clipped):
        coded = rounding(weight, moment, 4, 32)
        assert torch.isfinite(coded.scales).all()
        assert (coded.dequantize() - weight)[:, :8].abs().max() < 0.5
    assert torch.isfinite(round_calibrated(weight, torch.zeros(64, 64), 4, 32).dequantize()).all()


def test_scales_mind_what_matters():
    """A large weight whose input is tiny is cut, for the sake of the others."""
    groups = torch.full((1, 1, 32), 0.5)
    groups[..., ::2] = -0.31
    groups[..., 0] = 4.0
    importance = torch.ones(1, 1, 32)
    importance[..., 0] = 1e-6
    cut, kept = (
        best_scales(groups, weights, gptq.PARTS).abs() for weights in (importance, torch.ones_like(importance))
    )
    assert cut < kept


@torch.inference_mode()
def outputs(model, documents):
    made = []
    for document in documents:
        attend = dense_attend(1, len(document), model.config.sliding_windows)
        made.append(model(torch.tensor(document), torch.arange(len(document)), attend))
    return torch.cat(made)


def test_layers_are_rounded_one_after_another():
    config = make_config(num_layers=3, hidden_size=64, intermediate_size=96, attention_bias=True)
    generator = torch.Generator().manual_seed(5)
    documents = [torch.randint(30, (40,), generator=generator).tolist() for _ in range(12)]
    exact = outputs(make_model(config, seed=3), documents)
    errors = {}
    for name, rounding in {
        "nearest": lambda weight, _: round_nearest(weight, 4, 32),
        "gptq": lambda weight, moment: round_calibrated(weight, moment, 4, 32),
    }.items():
        model, seen = make_model(config, seed=3), []
        coded = round_layers(model, documents, rounding, lambda *told, seen=seen: seen.append(told[:2]))
        assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
        assert set(coded) == {f"model.{n}.weight" for n, _ in linears(model.model)}
        for weight, code in coded.items():
            assert torch.equal(model.state_dict()[weight], code.dequantize())
        errors[name] = float((outputs(model, documents) - exact).pow(2).mean())
    assert errors["gptq"] < 0.7 * errors["nearest"]


def test_moments_are_those_of_the_inputs():
    config = make_config(num_layers=1, hidden_size=16, intermediate_size=24, num_heads=2, head_dim=8)
    model = make_model(config, seed=1)
    documents = [[1, 2, 3], [4, 5]]
    with torch.inference_mode():
        hidden = [model.model.embed_tokens(torch.tensor(document)) for document in documents]
        layer = model.model.layers[0]
        found = input_moments(model, layer, hidden)
        normed = torch.cat([layer.input_layernorm(rows) for rows in hidden]).double()
    torch.testing.assert_close(found["self_attn.q_proj"], normed.T @ normed / 5, rtol=1e-5, atol=1e-6)
    assert torch.equal(found["self_attn.q_proj"], found["self_attn.v_proj"])
    assert {name: tuple(m.shape) for name, m in found.items() if "mlp" in name} == {
        "mlp.gate_proj": (16, 16),
        "mlp.up_proj": (16, 16),
        "mlp.down_proj": (24, 24),
    }
