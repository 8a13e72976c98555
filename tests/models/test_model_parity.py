"""Logits equal those of transformers on checkpoints that it wrote, at every position; broken models do not."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hf_models import FAMILIES, ORIGINAL_LENGTH, WINDOW, make_hf_model, read_hf_model
from outthink.kernels.reference.dense import dense_attend
from outthink.models.checkpoint import load_model
from outthink.models.config import ModelConfig
from outthink.models.transformer import Transformer

TOLERANCE = 1e-4
BATCH, LENGTH = 2, 150
assert max(WINDOW, ORIGINAL_LENGTH) < LENGTH // 2


def tokens_for(config: ModelConfig) -> torch.Tensor:
    return torch.randint(config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def our_logits(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(LENGTH).repeat(BATCH)
    attend = dense_attend(BATCH, LENGTH, model.config.sliding_windows)
    return model.logits(model(tokens.flatten(), positions, attend)).view(BATCH, LENGTH, -1)


@torch.no_grad()
def difference(hf: torch.nn.Module, model: Transformer) -> float:
    tokens = tokens_for(model.config)
    return (hf(tokens).logits - our_logits(model, tokens)).abs().max().item()


def mutant(model: Transformer, config: ModelConfig) -> Transformer:
    """The same weights in a model of another config."""
    other = Transformer(config)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    hf = make_hf_model(family, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.dtype == "float32"
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert difference(hf, loaded.model) <= TOLERANCE


@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_half_precision_checkpoints_convert_exactly(family: str, tmp_path: Path) -> None:
    hf = make_hf_model(family, tmp_path, dtype="bfloat16")
    assert {p.dtype for p in load_model(tmp_path).model.parameters()} == {torch.bfloat16}
    loaded = load_model(tmp_path, dtype="float32")
    assert loaded.config.dtype == "float32"
    assert difference(hf, loaded.model) <= TOLERANCE


def test_bfloat16_logits_are_as_close_to_float32_as_transformers_are(tmp_path: Path) -> None:
    hf = make_hf_model("qwen3", tmp_path, dtype="bfloat16")
    model = load_model(tmp_path).model
    tokens = tokens_for(model.config)
    with torch.no_grad():
        exact = hf(tokens).logits
        theirs = read_hf_model(tmp_path, "bfloat16")(tokens).logits.float()
    ours = our_logits(model, tokens)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).pow(2).mean() <= 1.5 * (theirs - exact).pow(2).mean()


def test_moving_to_half_precision_keeps_the_frequencies(tmp_path: Path) -> None:
    make_hf_model("llama3", tmp_path)
    model = load_model(tmp_path).model
    before = model.model.rotary.inv_freq.clone()
    after = model.to(torch.bfloat16).model.rotary.inv_freq
    assert after.dtype == torch.float32
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", ["llama3", "llama-linear", "llama-yarn", "qwen2-yarn"])
def test_a_wrong_rope_scaling_is_noticed(family: str, tmp_path: Path) -> None:
    hf = make_hf_model(family, tmp_path)
    model = load_model(tmp_path).model
    rope = model.config.rope
    unscaled = replace(rope, rope_type="default")
    wrong_factor = replace(rope, factor=rope.factor * 1.25)
    # Eight times: with so few pairs, YaRN's bounds round a smaller change away.
    wrong_length = replace(rope, original_max_positions=8 * (rope.original_max_positions or 0))
    for broken in [unscaled, wrong_factor] if rope.rope_type == "linear" else [unscaled, wrong_factor, wrong_length]:
        assert difference(hf, mutant(model, replace(model.config, rope=broken))) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["mistral", "qwen2-window", "qwen3-window"])
def test_a_wrong_window_is_noticed(family: str, tmp_path: Path) -> None:
    hf = make_hf_model(family, tmp_path)
    model = load_model(tmp_path).model
    windows = model.config.sliding_windows
    assert WINDOW in windows
    for broken in [
        (None,) * len(windows),
        tuple(w and w + 1 for w in windows),
        tuple(w and w - 1 for w in windows),
    ]:
        assert difference(hf, mutant(model, replace(model.config, sliding_windows=broken))) > 10 * TOLERANCE


def test_packed_segments_equal_separate_sequences(tmp_path: Path) -> None:
    make_hf_model("mistral", tmp_path)
    model = load_model(tmp_path).model
    tokens = tokens_for(model.config)
    segments = torch.stack((torch.arange(LENGTH) // 40, torch.arange(LENGTH) // 97))
    starts = [[0, 40, 80, 120, LENGTH], [0, 97, LENGTH]]
    positions = torch.stack((torch.arange(LENGTH) % 40, torch.arange(LENGTH) % 97))
    windows = model.config.sliding_windows
    packed = model(tokens.flatten(), positions.flatten(), dense_attend(BATCH, LENGTH, windows, segments))
    for row, bounds in enumerate(starts):
        for start, end in pairwise(bounds):
            count = end - start
            alone = model(tokens[row, start:end], torch.arange(count), dense_attend(1, count, windows))
            assert torch.allclose(packed.view(BATCH, LENGTH, -1)[row, start:end], alone, atol=TOLERANCE)


def test_packing_without_segments_is_noticed(tmp_path: Path) -> None:
    make_hf_model("llama", tmp_path)
    model = load_model(tmp_path).model
    tokens, positions = tokens_for(model.config)[0], torch.arange(LENGTH) % 75
    leaky = model(tokens, positions, dense_attend(1, LENGTH))
    alone = model(tokens[75:], torch.arange(75), dense_attend(1, 75))
    assert (leaky[75:] - alone).abs().max() > 10 * TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_on_a_gpu_equal_those_of_transformers_on_the_cpu(family: str, tmp_path: Path) -> None:
    hf = make_hf_model(family, tmp_path)
    loaded = load_model(tmp_path, device="cuda")
    tokens = tokens_for(loaded.config)
    positions = torch.arange(LENGTH, device="cuda").repeat(BATCH)
    attend = dense_attend(BATCH, LENGTH, loaded.config.sliding_windows)
    with torch.no_grad():
        hidden = loaded.model(tokens.flatten().cuda(), positions, attend)
        ours = loaded.model.logits(hidden).view(BATCH, LENGTH, -1).cpu()
        assert (hf(tokens).logits - ours).abs().max().item() <= TOLERANCE
