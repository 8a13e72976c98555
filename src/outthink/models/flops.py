"""FLOPs of computing a model, from its shape alone. Imports no torch.

Counted are matrix products, a multiply-add as 2: linear layers, attention scores and weighted values. That is what
`torch.utils.flop_counter.FlopCounterMode` counts, and what literature means by a model's FLOPs.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from outthink.models.config import ModelConfig


def position_flops(config: ModelConfig, context: int) -> int:
    """FLOPs of one position that attends to ``context`` keys, its own included: all layers, without the logits.

    A layer with a sliding window attends to no more keys than that.
    """
    return prefill_flops(config, context - 1, 1)


def prefill_flops(config: ModelConfig, start: int, count: int) -> int:
    """FLOPs of ``count`` consecutive positions of one sequence, the first at position ``start``, without logits."""
    keys = sum(layers * _visible_keys(start, count, window) for window, layers in _windows(config.sliding_windows))
    return count * _linear_flops(config) + keys * 4 * config.num_heads * config.head_dim


def head_flops(config: ModelConfig) -> int:
    """FLOPs of one row of logits."""
    return 2 * config.hidden_size * config.num_outputs


def _linear_flops(config: ModelConfig) -> int:
    """FLOPs of the linear layers of one position, independent of its context."""
    attention = 2 * config.head_dim * (config.num_heads + config.num_kv_heads)
    return 2 * config.num_layers * config.hidden_size * (attention + 3 * config.intermediate_size)


@lru_cache
def _windows(windows: tuple[int | None, ...]) -> tuple[tuple[int | None, int], ...]:
    """Each window once, with how many layers have it: the engine asks for every position that it computes."""
    return tuple(Counter(windows).items())


def _visible_keys(start: int, count: int, window: int | None) -> int:
    """The sum of min(p + 1, window) over positions p in [start, start + count)."""
    end = start + count
    growing_end = end if window is None else max(start, min(end, window))
    growing = (growing_end - start) * (start + 1 + growing_end) // 2
    return growing + (end - growing_end) * (window or 0)
