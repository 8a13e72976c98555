"""Reading config.json: both styles of transformers, family defaults, windows, and refusals by name."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hf_models import FAMILIES, make_hf_model
from outthink.core.errors import CheckpointError
from outthink.models.config import ModelConfig, RopeConfig
from outthink.models.rope import inverse_frequencies

MINIMAL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
}


def read(model_type: str = "llama", **changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(MINIMAL | {"model_type": model_type} | changes, "DIR/config.json")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_absent_keys_mean_what_they_mean_in_transformers(model_type: str) -> None:
    ours, theirs = read(model_type), AutoConfig.for_model(model_type, **MINIMAL)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 64 // 32)
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.eos_token_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    assert ours.rope == RopeConfig(theta=theirs.rope_parameters["rope_theta"])
    assert ours.sliding_windows == (getattr(theirs, "sliding_window", None),) * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_style_of_transformers_4_reads_the_same(family: str, tmp_path: Path) -> None:
    make_hf_model(family, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in raw and "dtype" in raw
    rope = raw.pop("rope_parameters")
    old = raw | {"rope_theta": rope.pop("rope_theta"), "torch_dtype": raw.pop("dtype")}
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope | {"type": rope.pop("rope_type")}
    new = ModelConfig.from_dict(json.loads((tmp_path / "config.json").read_text()), "new")
    assert ModelConfig.from_dict(old, "old") == new


def test_dtype_goes_before_torch_dtype() -> None:
    assert read(torch_dtype="float16").dtype == "float16"
    assert read(torch_dtype="float16", dtype="bfloat16").dtype == "bfloat16"
    assert read(dtype="torch.float16").dtype == "float16"


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 8}, (None, None, None, None)),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, (None, None, None, 8)),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, (8, 8, 8, 8)),
        ({"sliding_window": 8, "use_sliding_window": True}, (None, None, None, None)),
        ({"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, (None, None, None, None)),
        ({"use_sliding_window": True, "max_window_layers": 2}, (None, None, 4096, 4096)),
        (
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "max_window_layers": 0,
                "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"],
            },
            (None, 8, None, None),
        ),
    ],
)
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen_windows(model_type: str, changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert read(model_type, **changes).sliding_windows == windows
    theirs = AutoConfig.for_model(model_type, **(MINIMAL | changes))
    types = theirs.layer_types
    assert tuple(theirs.sliding_window if kind == "sliding_attention" else None for kind in types) == windows


def test_explicit_nulls_and_lists() -> None:
    config = read(num_key_value_heads=None, eos_token_id=[2, 7], bos_token_id=None)
    assert (config.num_kv_heads, config.eos_token_ids, config.bos_token_id) == (32, (2, 7), None)
    assert read(eos_token_id=None).eos_token_ids == ()
    assert read("mistral", num_key_value_heads=8, sliding_window=None).sliding_windows == (None,) * 4


def test_yarn_stretches_the_declared_length_only_where_it_is_the_original_one() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}
    assert read(rope_scaling=yarn, max_position_embeddings=1000).max_positions == 4000
    assert read(rope_scaling=yarn, max_position_embeddings=5000).max_positions == 5000


def test_the_original_length_beside_the_rope_parameters_goes_first() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    ours = read(rope_scaling=rope, original_max_position_embeddings=200, head_dim=64)
    assert ours.rope.original_max_positions == 200
    theirs = AutoConfig.for_model(
        "llama", **MINIMAL, rope_scaling=rope, original_max_position_embeddings=200, head_dim=64
    )
    assert torch.equal(inverse_frequencies(ours.rope, 64), ROPE_INIT_FUNCTIONS["yarn"](theirs)[0])


# What well-known checkpoints on the hub say (only keys that matter here), and the shape that they have.
PUBLISHED = {
    "Llama-2-7b": (
        {"model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008}
        | {"max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000}
        | {"num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None}
        | {"tie_word_embeddings": False, "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2},
        {"head_dim": 128, "dtype": "float16", "rope": RopeConfig()},
    ),
    "Llama-3.2-1B-Instruct": (
        {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "head_dim": 64, "hidden_size": 2048}
        | {"intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32}
        | {"num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0}
        | {"eos_token_id": [128001, 128008, 128009], "vocab_size": 128256, "tie_word_embeddings": True}
        | {
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            }
        }
        | {"torch_dtype": "bfloat16", "hidden_act": "silu", "bos_token_id": 128000, "use_cache": True},
        {
            "head_dim": 64,
            "eos_token_ids": (128001, 128008, 128009),
            "rope": RopeConfig("llama3", 500000.0, 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0),
        },
    ),
    "Qwen2.5-0.5B-Instruct": (
        {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768}
        | {"max_window_layers": 21, "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2}
        | {"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "use_sliding_window": False}
        | {"tie_word_embeddings": True, "vocab_size": 151936, "hidden_act": "silu", "torch_dtype": "bfloat16"},
        {"head_dim": 64, "attention_bias": True, "output_bias": False, "sliding_windows": (None,) * 24},
    ),
    "Qwen3-0.6B": (
        {"model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 1024, "hidden_act": "silu"}
        | {"intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28}
        | {"num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rope_scaling": None}
        | {"rms_norm_eps": 1e-06, "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False}
        | {"tie_word_embeddings": True, "vocab_size": 151936, "torch_dtype": "bfloat16"},
        {"head_dim": 128, "qk_norm": True, "rope": RopeConfig(theta=1e6), "max_positions": 40960},
    ),
    "Mistral-7B-v0.1": (
        {"model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336}
        | {"max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32}
        | {"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096}
        | {"tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000},
        {"head_dim": 128, "num_kv_heads": 8, "sliding_windows": (4096,) * 32, "dtype": "bfloat16"},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    raw, expected = PUBLISHED[name]
    config = ModelConfig.from_dict(raw, name)
    assert {key: getattr(config, key) for key in expected} == expected


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported; known families: llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "'model_type' is missing"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "64"}, "'hidden_size' is '64'"),
        ({"vocab_size": 0}, "'vocab_size' is 0"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000; expected at most"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' is True"),
        ({"rms_norm_eps": -1e-6}, "'rms_norm_eps' is -1e-06"),
        ({"tie_word_embeddings": 1}, "'tie_word_embeddings' is 1"),
        ({"eos_token_id": [2, -1]}, "'eos_token_id'"),
        ({"num_key_value_heads": 5}, "32 attention heads cannot share 5"),
        ({"head_dim": 3}, "head_dim is 3"),
        ({"hidden_size": 65}, "'hidden_size' 65 is not a multiple"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config' is not supported"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is not supported"),
        ({"rope_interleaved": True}, "'rope_interleaved' is not supported"),
        ({"dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn'"),
        ({"sliding_window": 8}, "'sliding_window' is 8"),
        ({"layer_types": ["full_attention"]}, "'layer_types' must list 4 layers"),
        ({"layer_types": ["conv"] * 4}, "layer type 'conv'"),
        ({"layer_types": ["sliding_attention"] * 4}, "'layer_types' must all be 'full_attention'"),
        ({"rope_scaling": "yarn"}, "rope parameters are 'yarn'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope type 'longrope' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "'factor' is 0"),
        ({"rope_scaling": LLAMA3}, "'high_freq_factor' is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "'mrope_section'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "'full_attention' is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "'partial_rotary_factor'"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=r"DIR/config\.json") as error:
        read(**{"model_type": "llama", **changes})
    assert message in str(error.value)


def test_windowed_layers_without_a_window_are_refused() -> None:
    with pytest.raises(CheckpointError, match="use_sliding_window"):
        read("qwen2", layer_types=["sliding_attention"] * 4)


def test_reading_a_config_imports_no_torch() -> None:
    script = (
        "import sys, outthink.models, outthink.models.config, outthink.models.flops; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_lazy_exports() -> None:
    import outthink.models as models

    assert all(getattr(models, name).__name__ == name for name in models.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        models.nothing  # noqa: B018
