"""A model is opened, mapped and run on the compiled kernels without torch, and is what torch would load."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_models import make_hf_model
from outthink.models.checkpoint import load_model
from outthink.models.config import ModelConfig, RopeConfig
from outthink.models.opened import MappedWeights, open_model
from outthink.models.rope import RotaryEmbedding
from outthink.models.rope_frequencies import rotation_tables
from outthink.models.shapes import tensor_shapes
from outthink.models.transformer import Transformer

FLAGS = ("attention_bias", "output_bias", "mlp_bias", "qk_norm", "tie_embeddings")
ROPES = (
    RopeConfig(),
    RopeConfig("linear", 1e6, 4.0),
    RopeConfig("llama3", 5e5, 8.0, 64),
    RopeConfig("yarn", 1e4, 4.0, 64),
)


@given(st.fixed_dictionaries({flag: st.booleans() for flag in FLAGS}), st.sampled_from([None, "process"]))
@settings(max_examples=40, deadline=None)
def test_the_shapes_are_those_of_the_transformer(flags: dict[str, bool], reward: str | None) -> None:
    config = ModelConfig(
        "llama", 17, 24, 36, 2, 4, 2, 6, 64, 1e-5, RopeConfig(), sliding_windows=(None,) * 2, reward=reward, **flags
    )
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Transformer(config).state_dict().items()}
    assert tensor_shapes(config) == expected


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope.rope_type)
def test_rotations_are_those_of_torch(rope: RopeConfig) -> None:
    """As far as float32 goes: a frequency off by its last bit turns position 2,000 by up to 2e-4."""
    cos, sin = rotation_tables(rope, 80, 2000)
    expected = RotaryEmbedding(rope, 80)(torch.arange(2000), torch.float32)
    for found, table in zip((cos, sin), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, table[:, 0, :40].numpy(), atol=2.5e-4)
        np.testing.assert_allclose(found[:16], table[:16, 0, :40].numpy(), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_mapped_weights_are_the_stored_ones(tmp_path: Path, dtype: torch.dtype) -> None:
    make_hf_model("llama3", tmp_path)
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(stored, tmp_path / "model.safetensors")
    weights = MappedWeights(open_model(tmp_path))
    assert weights.keys() == stored.keys()
    for name, tensor in stored.items():
        bits = tensor.view(torch.int16).numpy().view(np.uint16) if dtype == torch.bfloat16 else tensor.numpy()
        assert np.array_equal(weights[name], bits)


def test_an_opened_model_loads_into_torch_when_asked(tmp_path: Path) -> None:
    make_hf_model("llama3", tmp_path)
    opened, loaded = open_model(tmp_path, "bfloat16"), load_model(tmp_path, "bfloat16")
    assert (opened.config, opened.source, opened.quantized) == (loaded.config, loaded.source, False)
    assert opened.model is opened.model
    state = loaded.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in opened.model.state_dict().items())


SCRIPT = """
import asyncio, sys, outthink
async def write(model):
    async with await model.session().root([1, 2, 3]) as root:
        return (await root.extend(1, outthink.Until(4, ignore_eos=True)))[0].tokens
with outthink.load(sys.argv[1], backend="cpu", kv_gib=0.01) as model:
    assert len(asyncio.run(write(model))) == 4
    assert "torch" not in sys.modules, "torch was imported"
    assert model.loaded.model.config.hidden_size == model.loaded.config.hidden_size
    assert "torch" in sys.modules
"""


def test_the_compiled_kernels_run_without_torch(tmp_path: Path) -> None:
    """Its import takes longer than everything else between a command and its first token."""
    make_hf_model("qwen2", tmp_path)
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
