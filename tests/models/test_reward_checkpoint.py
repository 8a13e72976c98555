"""Reward models: logits equal those of transformers' sequence classification, on both backends; broken files say so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cpu_cases import make_batch
from hf_models import make_hf_reward
from outthink.core.errors import CheckpointError
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.paged import TorchBackend
from outthink.models.checkpoint import StoredWeights, load_model
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.transformer import Transformer

TOLERANCE = 1e-4
LENGTH = 90
READ = (0, 1, 15, 16, 40, LENGTH - 1)


def tokens_of(vocab_size: int) -> list[int]:
    return torch.randint(vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


@torch.no_grad()
def expected(hf: torch.nn.Module, tokens: list[int]) -> list[float]:
    """What transformers says of the prefixes that end at READ."""
    return [float(hf(torch.tensor([tokens[: end + 1]])).logits[0, 0]) for end in READ]


def mixed(backend: CpuBackend | TorchBackend, tokens: list[int]) -> np.ndarray:
    """The same from our backend, in chunks and over pages that are not in order."""
    table = [5, 2, 9, 1, 7, 3]
    rows = [backend.run(make_batch([(tokens[a:b], a, table)])) for a, b in ((0, 23), (23, 24), (24, LENGTH))]
    values = np.concatenate(rows)
    assert values.shape == (LENGTH, 1)
    return values[list(READ), 0]


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3", "mistral"])
def test_logits_equal_transformers_on_both_backends(family: str, tmp_path: Path) -> None:
    hf = make_hf_reward(family, tmp_path)
    loaded = load_model(tmp_path)
    tokens = tokens_of(loaded.config.vocab_size)
    wanted = expected(hf, tokens)
    assert loaded.config.reward == "process"
    assert np.ptp(wanted) > 1000 * TOLERANCE
    assert mixed(TorchBackend(loaded.model, 10), tokens) == pytest.approx(wanted, abs=TOLERANCE)
    compiled = CpuBackend(loaded.model, 10, threads=1, tensors=StoredWeights(loaded))
    assert mixed(compiled, tokens) == pytest.approx(wanted, abs=TOLERANCE)
    with torch.no_grad():
        loaded.model.score.weight[0, 3] += 0.2  # the head that is compared is really the one in use
    assert mixed(TorchBackend(loaded.model, 10), tokens) != pytest.approx(wanted, abs=100 * TOLERANCE)


@pytest.mark.parametrize("weight_format", ["bfloat16", "int8"])
def test_coarser_weights_come_near(weight_format: str, tmp_path: Path) -> None:
    hf = make_hf_reward("qwen3", tmp_path, dtype="bfloat16")
    loaded = load_model(tmp_path)
    tokens = tokens_of(loaded.config.vocab_size)
    wanted = np.array(expected(hf, tokens))
    found = mixed(CpuBackend(loaded.model, 10, threads=1, weight_format=weight_format), tokens)
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.ptp(wanted)


def test_kinds_and_costs(tmp_path: Path) -> None:
    make_hf_reward("llama", tmp_path, outthink_reward="outcome")
    config = load_model(tmp_path).config
    assert config.reward == "outcome"
    assert (config.num_outputs, head_flops(config)) == (1, 2 * config.hidden_size)
    assert prefill_flops(config, 0, 1) > head_flops(config)
    assert [name for name, _ in Transformer(config).named_parameters() if not name.startswith("model.")] == [
        "score.weight"
    ]


def rewrite(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (raw | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outthink_reward": "steps"}, "'outthink_reward' is 'steps'; known: process, outcome"),
        ({"id2label": {"0": "no", "1": "yes"}}, "2 labels; a reward model has 1"),
        ({"id2label": None, "label2id": None}, "2 labels; a reward model has 1"),
        ({"architectures": ["LlamaForCausalLM"]}, "lm_head.weight' of shape .* is missing"),
    ],
)
def test_what_is_no_reward_model_says_why(changes: dict, message: str, tmp_path: Path) -> None:
    make_hf_reward("llama", tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)
