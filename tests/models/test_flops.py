"""FLOPs counted from the shape equal what torch's counter sees our transformer compute."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.test_transformer import CONFIG
from outthink.kernels.reference.dense import dense_attend
from outthink.models.config import ModelConfig
from outthink.models.flops import head_flops, position_flops, prefill_flops
from outthink.models.transformer import Transformer

CONFIGS = [
    CONFIG,
    replace(CONFIG, num_kv_heads=4, sliding_windows=(None, None), qk_norm=False, head_dim=10, tie_embeddings=False),
    replace(CONFIG, num_kv_heads=1, sliding_windows=(3, 1), mlp_bias=True),
]


def counted(config: ModelConfig, run: Callable[[Transformer], object]) -> int:
    # The plain kernel, since the counter does not know the fused one of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        run(Transformer(config))
    return counter.get_total_flops()


def decode_attend(config: ModelConfig, context: int) -> Callable[..., torch.Tensor]:
    """Dense attention of one new position over exactly the keys that it sees, its own among them."""

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        window = config.sliding_windows[layer]
        keys = context if window is None else min(context, window)
        k, v = (x.expand(keys, -1, -1).repeat_interleave(config.num_heads // config.num_kv_heads, 1) for x in (k, v))
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return ((q @ k.mT / config.head_dim**0.5).softmax(-1) @ v).transpose(0, 1)

    return attend


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("context", [1, 4, 5, 6, 33])
def test_a_decode_step_equals_torchs_counter(config: ModelConfig, context: int) -> None:
    token = torch.zeros(1, dtype=torch.long)
    seen = counted(config, lambda model: model(token, token + context - 1, decode_attend(config, context)))
    assert position_flops(config, context) == seen


@pytest.mark.parametrize("config", CONFIGS)
def test_a_prefill_equals_torchs_counter_with_the_exact_causal_count(config: ModelConfig) -> None:
    length = 21
    tokens = torch.zeros(length, dtype=torch.long)
    full = replace(config, sliding_windows=(None,) * config.num_layers)
    seen = counted(full, lambda model: model(tokens, tokens, dense_attend(1, length)))
    # The counter takes every query to meet every key.
    pair = 4 * config.num_heads * config.head_dim
    linear = seen - config.num_layers * length * length * pair
    met = sum(min(p + 1, window or length) for window in config.sliding_windows for p in range(length))
    assert prefill_flops(config, 0, length) == linear + met * pair


@pytest.mark.parametrize("config", CONFIGS)
def test_the_closed_form_is_the_sum_over_positions(config: ModelConfig) -> None:
    for start in range(9):
        for count in range(9):
            positions = range(start, start + count)
            assert prefill_flops(config, start, count) == sum(position_flops(config, p + 1) for p in positions)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_head_equals_torchs_counter(config: ModelConfig) -> None:
    hidden = torch.zeros(3, config.hidden_size)
    assert counted(config, lambda model: model.logits(hidden)) == 3 * head_flops(config)
