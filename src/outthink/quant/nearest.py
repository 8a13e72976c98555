"""Rounding each weight to the nearest code, with scales of least squared error. No data is needed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from outthink.kernels.coded import CodedWeight

# The largest weight of a group becomes code -8, whatever its sign, or is cut to it.
PARTS = (1.0, 0.92, 0.85, 0.78)
LEAST, MOST = {4: -8, 8: -127}, {4: 7, 8: 127}


def round_nearest(weight: Tensor, bits: int, group: int | None) -> CodedWeight:
    """``weight`` [out, in] in symmetric codes of ``bits`` (4 or 8), ``group`` inputs (None: all) to a scale.

    8 bits use -127..127 and float32 scales by which the largest of a group is represented; 4 bits float16 scales, of
    four the one with the least squared error. Both are what the CPU kernels make of plain weights.
    """
    columns = weight.shape[1]
    size = columns if group is None else group
    groups = split(weight.float(), size)
    scales = exact_scales(groups) if bits == 8 else best_scales(groups, torch.ones_like(groups), PARTS)
    codes = encode(groups, scales[..., None], bits)
    return CodedWeight(codes.flatten(1)[:, :columns].contiguous(), scales, bits, size)


def split(weight: Tensor, group: int) -> Tensor:
    """[out, in] as [out, groups, group], padded with zeros."""
    return pad(weight, (0, -weight.shape[1] % group)).unflatten(1, (-1, group))


def encode(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The int8 codes nearest to ``values / scales``, ties to even; 0 where the scale is 0."""
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    return (values * inverse).round().clamp(LEAST[bits], MOST[bits]).to(torch.int8)


def exact_scales(groups: Tensor) -> Tensor:
    """float32 scales [...] of groups [..., group] by which the largest becomes 127 or -127."""
    return groups.abs().amax(-1) / 127


def best_scales(groups: Tensor, importance: Tensor, parts: tuple[float, ...]) -> Tensor:
    """float16 scales (in float32) [...] of 4-bit groups [..., group] with the least squared error.

    Errors are weighted with ``importance``, of the shape of ``groups`` or broadcast to it. Tried are the ``parts`` of
    the scale by which the largest becomes code -8.
    """
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    tried = torch.stack([(extreme * part / -8).half().float() for part in parts])
    errors = torch.stack([squared_error(groups, importance, scale) for scale in tried])
    return tried.squeeze(-1).gather(0, errors.argmin(0)[None])[0]


def squared_error(groups: Tensor, importance: Tensor, scale: Tensor) -> Tensor:
    """The weighted squared error [...] of rounding groups [..., group] to 4 bits with ``scale`` [..., 1]."""
    rounded = encode(groups, scale, 4).float() * scale
    return ((rounded - groups) ** 2 * importance).sum(-1)
