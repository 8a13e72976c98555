"""Numbers at the ends of what float32 holds: large gates, tiny activations, scores below any mask."""

import numpy as np
import pytest
import torch

from cpu_cases import Pages, dense_logits, error, make_config, make_model, run_chunked
from kernels.test_cpu_invariance import FORMATS, ISAS
from outthink.kernels.cpu.backend import CpuBackend

TOKENS = np.random.default_rng(6).integers(101, size=40).tolist()
CONFIG = make_config(mlp_bias=True, tie_embeddings=False)


def logits_of(model, formats: str, isa: str) -> np.ndarray:
    weights, kv = FORMATS[formats]
    backend = CpuBackend(model, 4, threads=2, weight_format=weights, kv_format=kv, isa=isa)
    return run_chunked(backend, TOKENS, Pages(4, seed=0).table(len(TOKENS)), [23, 16, 1])


def make_scaled(scales: dict[str, int]):
    """A random model with matrices and norms of its layers multiplied by powers of two that cancel out."""
    model = make_model(make_config(tie_embeddings=False), seed=4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for part, power in scales.items():
                if part in name:
                    weight.mul_(2.0**power)
    return model


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("gate", [-100.0, -1e4, -1e30])
def test_closed_gates_let_nothing_through(gate: float, formats: str, isa: str) -> None:
    """silu of -100 is -4e-42: to the last bit as if there were no MLP."""
    models = [make_model(CONFIG, seed=3) for _ in range(2)]
    with torch.no_grad():
        for model in models:
            for layer in model.model.layers:
                layer.mlp.gate_proj.bias.fill_(gate)
        for layer in models[1].model.layers:
            layer.mlp.down_proj.weight.zero_()
    assert np.array_equal(*[logits_of(model, formats, isa) for model in models])


@pytest.mark.parametrize("isa", ISAS)
def test_gates_far_from_zero_on_both_sides(isa: str) -> None:
    model = make_model(CONFIG, seed=3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.bias[::2] = -150
            layer.mlp.gate_proj.bias[1::2] = 150
    expected = dense_logits(model, TOKENS)
    assert error(logits_of(model, "float32", isa), expected) < 1e-5 * expected.std()


TINY = {
    "inputs": ("int8", {"layernorm.weight": -124, "q_proj": 124, "k_proj": 124, "v_proj": 124, "gate": 124, "up": 124}),
    "weights": ("int8", {"v_proj": -120, "o_proj": 120}),
    "queries": ("float32, int8 KV", {"q_proj": -116, "k_proj": 116}),
    "keys": ("float32, int8 KV", {"q_proj": 124, "k_proj": -124}),
    "values": ("float32, int8 KV", {"v_proj": -113, "o_proj": 113}),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", TINY)
def test_tiny_numbers_keep_their_sizes_in_int8(name: str, isa: str) -> None:
    """Where the inverse of a scale would be infinite, codes become coarser, not wrong."""
    formats, scales = TINY[name]
    expected = dense_logits(make_scaled({}), TOKENS)
    assert error(logits_of(make_scaled(scales), formats, isa), expected) < 0.25 * expected.std()


@pytest.mark.parametrize("isa", ISAS)
def test_no_score_is_below_the_mask(isa: str) -> None:
    """Queries whose scores are all about -1e33 still prefer the largest of them."""
    model = make_scaled({"q_proj": 55, "k_proj": 55})
    expected = dense_logits(model, TOKENS)
    assert error(logits_of(model, "float32", isa), expected) < 1e-4 * expected.std()
