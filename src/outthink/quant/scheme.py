"""The ``quantization_config`` of a config.json: read into a `Layout`, and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outthink.core.errors import CheckpointError
from outthink.quant.layouts import AwqLayout, GptqLayout, IntLayout, Layout, PackedLayout

METHODS = ("compressed-tensors", "gptq", "awq")
BITS = (4, 8)
_LARGEST_GROUP = 1 << 20


def read_layout(raw: Mapping[str, Any], where: str) -> Layout:
    """The layout that a ``quantization_config`` describes; ``where`` names its file in errors.

    Raises CheckpointError for another method than METHODS, and for options that are not implemented.
    """
    scheme = _Scheme(raw, f"{where}: quantization_config")
    method = raw.get("quant_method")
    if method == "gptq":
        return _read_gptq(scheme)
    if method == "awq":
        return _read_awq(scheme)
    if method != "compressed-tensors":
        raise scheme.error(f"quant_method {method!r} is not supported; known: {', '.join(METHODS)}")
    return _read_compressed(scheme)


def write_scheme(layout: PackedLayout | IntLayout) -> dict[str, Any]:
    """The ``quantization_config`` of a checkpoint whose layers, but not embedding and head, are in ``layout``."""
    weights = {
        "num_bits": layout.bits,
        "type": "int",
        "symmetric": layout.symmetric,
        "strategy": "channel" if layout.group is None else "group",
        "group_size": layout.group,
        "dynamic": False,
    }
    # Eight-bit layers are computed on eight-bit activations, as this format means it.
    dynamic = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    whole = isinstance(layout, IntLayout)
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if whole else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": dynamic if whole else None,
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


class _Scheme:
    """A JSON object and its place."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}.")

    def bits(self, key: str) -> int:
        value = self.raw.get(key)
        if type(value) is not int or value not in BITS:
            raise self.error(f"'{key}' is {value!r}; known: {', '.join(map(str, BITS))}")
        return value

    def group(self, key: str) -> int | None:
        """The group size; -1 and null mean whole outputs."""
        value = self.raw.get(key)
        if value is None or value == -1:
            return None
        if type(value) is not int or not 1 <= value <= _LARGEST_GROUP:
            raise self.error(f"'{key}' is {value!r}; expected a positive number, or -1")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"'{key}' is {value!r}; expected true or false")
        return value

    def refuse(self, key: str, *fine: Any) -> None:
        """Raise where ``key`` is none of the ``fine`` values."""
        value = self.raw.get(key)
        if not any(value == good for good in (None, *fine)):
            raise self.error(f"'{key}' {value!r} is not supported")


def _read_gptq(scheme: _Scheme) -> GptqLayout:
    kind = scheme.raw.get("checkpoint_format", "gptq")
    if kind not in ("gptq", "gptq_v2"):
        raise scheme.error(f"checkpoint_format {kind!r} is not supported; known: gptq, gptq_v2")
    return GptqLayout(scheme.bits("bits"), scheme.group("group_size"), 1 if kind == "gptq" else 0)


def _read_awq(scheme: _Scheme) -> AwqLayout:
    version = scheme.raw.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise scheme.error(f"AWQ version {version!r} is not supported; known: gemm")
    bits = scheme.bits("bits" if "bits" in scheme.raw else "w_bit")
    if bits != 4:
        raise scheme.error(f"AWQ of {bits} bits is not supported; known: 4")
    return AwqLayout(scheme.group("group_size" if "group_size" in scheme.raw else "q_group_size"))


def _read_compressed(scheme: _Scheme) -> PackedLayout | IntLayout:
    scheme.refuse("kv_cache_scheme", {})
    scheme.refuse("transform_config", {})
    sparsity = scheme.raw.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise scheme.error(f"sparsity_config {sparsity!r} is not supported")
    groups = scheme.raw.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise scheme.error("'config_groups' is missing or empty")
    found = {_read_group(scheme, name, group) for name, group in groups.items()}
    if len(found) > 1:
        raise scheme.error("several config_groups with different weights are not supported")
    return found.pop()


def _read_group(scheme: _Scheme, name: str, group: Any) -> PackedLayout | IntLayout:
    inner = _Scheme(group if isinstance(group, dict) else {}, f"{scheme.where}: {name}")
    weights = inner.raw.get("weights")
    if not isinstance(weights, dict):
        raise inner.error("'weights' is missing")
    inputs = inner.raw.get("input_activations")
    if inputs is not None and not (isinstance(inputs, dict) and inputs.get("dynamic") is True):
        raise inner.error("activations with static scales are not supported")
    inner.refuse("output_activations")
    args = _Scheme(weights, inner.where)
    args.refuse("type", "int")
    args.refuse("dynamic", False)
    strategy = weights.get("strategy")
    if strategy not in ("group", "channel"):
        raise args.error(f"strategy {strategy!r} is not supported; known: group, channel")
    size = args.group("group_size") if strategy == "group" else None
    if strategy == "group" and size is None:
        raise args.error("strategy 'group' needs a 'group_size'")
    bits, symmetric = args.bits("num_bits"), args.flag("symmetric", True)
    match inner.raw.get("format") or scheme.raw.get("format"):
        case "pack-quantized":
            return PackedLayout(bits, size, symmetric)
        case "int-quantized" | "naive-quantized":
            return IntLayout(bits, size, symmetric)
        case other:
            raise scheme.error(f"format {other!r} is not supported; known: pack-quantized, int-quantized")
