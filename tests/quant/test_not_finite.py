"""A weight that is not a finite number is not rounded to one that looks right."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.tiny_model import make_model
from outthink.core.errors import CheckpointError
from outthink.learn.quantize import METHODS, Quantization, quantize

NAME = "model.layers.0.self_attn.v_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("sound") / "tiny")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
def test_quantize_refuses_it_by_name(sound, tmp_path, damage, method):
    damaged = shutil.copytree(sound, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    tensors[NAME][1, 2] = damage
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    for bits, group in ((8, None), (4, 32)):
        with pytest.raises(CheckpointError, match=f"'{NAME}'"):
            quantize(damaged, tmp_path / "made", Quantization(bits, group, method), [[1, 2, 3]])
        assert not (tmp_path / "made").exists()
