"""The model families: what distinguishes each one's decoder, and what its absent config keys mean.

All of them are one decoder (`transformer.py`): RMSNorm, rotary attention with grouped queries, a gated SiLU MLP. A new
family of that shape is a `Family` in the table below; defaults follow the family's configuration in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from outthink.models.fields import Fields


@dataclass(frozen=True)
class Family:
    """Defaults of a family's absent config keys, and ``traits``: the config's fields that only the family knows.

    ``traits`` returns any of ``attention_bias``, ``output_bias``, ``mlp_bias``, ``qk_norm`` and ``sliding_windows``.
    """

    traits: Callable[[Fields, int], dict[str, Any]]
    max_positions: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def _llama(fields: Fields, num_layers: int) -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
        "sliding_windows": _same_window(fields, num_layers, None),
    }


def _mistral(fields: Fields, num_layers: int) -> dict[str, Any]:
    return {"sliding_windows": _same_window(fields, num_layers, 4096)}


def _qwen2(fields: Fields, num_layers: int) -> dict[str, Any]:
    return {"attention_bias": True, "sliding_windows": _layered_windows(fields, num_layers)}


def _qwen3(fields: Fields, num_layers: int) -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "sliding_windows": _layered_windows(fields, num_layers),
    }


def _same_window(fields: Fields, num_layers: int, absent: int | None) -> tuple[int | None, ...]:
    """One window for every layer, or none. Layer types are accepted only where they say the same."""
    window = fields.optional_integer("sliding_window", absent)
    if absent is None and window is not None:
        raise fields.error(f"'sliding_window' is {window}, which this family does not have; remove it or set it null.")
    kind = "full_attention" if window is None else "sliding_attention"
    if any(layer != kind for layer in _layer_types(fields, num_layers) or ()):
        raise fields.error(f"'layer_types' must all be {kind!r} in this family with this 'sliding_window'.")
    return (window,) * num_layers


def _layered_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Windows by ``layer_types``, else for layers from ``max_window_layers`` on, if ``use_sliding_window``."""
    window = fields.optional_integer("sliding_window", 4096) if fields.flag("use_sliding_window", False) else None
    types = _layer_types(fields, num_layers)
    if types is None:
        first = fields.raw.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise fields.error(f"'max_window_layers' is {first!r}; expected a whole number, 0 or more.")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if window is None and "sliding_attention" in types:
        raise fields.error(
            "'layer_types' has 'sliding_attention', but 'use_sliding_window' or 'sliding_window' is off."
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _layer_types(fields: Fields, num_layers: int) -> list[str] | None:
    types = fields.raw.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != num_layers:
        raise fields.error(f"'layer_types' must list {num_layers} layers, one for each of 'num_hidden_layers'.")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise fields.error(f"layer type {kind!r} is not supported; known: full_attention, sliding_attention.")
    return types


FAMILIES: Mapping[str, Family] = {
    "llama": Family(_llama, max_positions=2048, bos_token_id=1, eos_token_ids=(2,)),
    "mistral": Family(_mistral, max_positions=131072, num_kv_heads=8, bos_token_id=1, eos_token_ids=(2,)),
    "qwen2": Family(_qwen2, max_positions=32768, num_kv_heads=32),
    "qwen3": Family(_qwen3, max_positions=32768, num_kv_heads=32, head_dim=128),
}
