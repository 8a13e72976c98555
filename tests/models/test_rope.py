"""Rotary frequencies equal those of transformers bit for bit, for every rope type and over wide ranges of settings."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from outthink.models.config import RopeConfig, read_rope
from outthink.models.fields import Fields
from outthink.models.rope import RotaryEmbedding, apply_rope, inverse_frequencies
from outthink.models.rope_frequencies import attention_scaling

HEAD_DIMS = st.sampled_from([4, 8, 12, 64, 80, 128])
LENGTHS = st.integers(16, 131072)


def both(head_dim: int, max_positions: int, parameters: dict[str, Any]) -> tuple[RopeConfig, LlamaConfig]:
    oracle = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        rope_parameters=dict(parameters),
    )
    return read_rope(Fields({"rope_parameters": parameters}, "config.json"), max_positions), oracle


def check(head_dim: int, max_positions: int, parameters: dict[str, Any]) -> None:
    rope, oracle = both(head_dim, max_positions, parameters)
    expected, scaling = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](oracle)
    assert torch.equal(inverse_frequencies(rope, head_dim), expected)
    assert attention_scaling(rope) == scaling


@given(HEAD_DIMS, st.floats(100, 1e7))
def test_default(head_dim: int, theta: float) -> None:
    parameters = {"rope_type": "default", "rope_theta": theta}
    rope, oracle = both(head_dim, 512, parameters)
    expected, scaling = LlamaRotaryEmbedding.compute_default_rope_parameters(oracle)
    assert torch.equal(inverse_frequencies(rope, head_dim), expected)
    assert attention_scaling(rope) == scaling


@given(HEAD_DIMS, st.floats(100, 1e7), st.floats(1, 64))
def test_linear(head_dim: int, theta: float, factor: float) -> None:
    check(head_dim, 512, {"rope_type": "linear", "rope_theta": theta, "factor": factor})


@given(HEAD_DIMS, LENGTHS, LENGTHS, st.floats(1, 64), st.floats(0.5, 2), st.floats(2.5, 8))
def test_llama3(head_dim: int, longest: int, original: int, factor: float, low: float, high: float) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    check(head_dim, longest, parameters)
    del parameters["original_max_position_embeddings"]
    check(head_dim, longest, parameters)


YARN = st.fixed_dictionaries(
    {"rope_type": st.just("yarn"), "rope_theta": st.floats(1000, 1e7), "factor": st.floats(1, 64)},
    optional={
        "original_max_position_embeddings": LENGTHS,
        "beta_fast": st.floats(4, 64),
        "beta_slow": st.floats(0.5, 3),
        "truncate": st.booleans(),
        "attention_factor": st.floats(0.5, 2),
        "mscale": st.floats(0.5, 2),
        "mscale_all_dim": st.floats(0.5, 2),
    },
)


@settings(max_examples=300)
@given(HEAD_DIMS, LENGTHS, YARN)
def test_yarn(head_dim: int, longest: int, parameters: dict[str, Any]) -> None:
    check(head_dim, longest, parameters)


def test_yarn_without_a_factor_takes_the_ratio_of_lengths() -> None:
    parameters = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64}
    check(64, 256, parameters | {"rope_theta": 10000.0})


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=8))
def test_tables_equal_transformers_at_any_position(positions: list[int]) -> None:
    parameters = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    rope, oracle = both(64, 256, parameters)
    ours = RotaryEmbedding(rope, 64)(torch.tensor(positions), torch.float32)
    theirs = LlamaRotaryEmbedding(oracle)(torch.zeros(1), torch.tensor([positions]))
    assert all(torch.equal(a.squeeze(1), b[0]) for a, b in zip(ours, theirs, strict=True))


def test_rotated_products_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)
    rotary = RotaryEmbedding(RopeConfig(), 16)

    def product(query_position: int, key_position: int) -> float:
        at = [rotary(torch.tensor([p]), torch.float64) for p in (query_position, key_position)]
        return (apply_rope(q, *at[0]) * apply_rope(k, *at[1])).sum().item()

    assert math.isclose(product(7, 3), product(107, 103), abs_tol=1e-4)
    assert not math.isclose(product(7, 3), product(7, 4), abs_tol=1e-2)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="spiral"):
        inverse_frequencies(RopeConfig(rope_type="spiral"), 8)
