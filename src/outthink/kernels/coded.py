"""`CodedWeight`: a matrix of small whole numbers with scales, as quantized checkpoints hold it and kernels take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodedWeight:
    """A weight [out, in]: element [o, i] is (codes[o, i] - zeros[o, g]) * scales[o, g] with g = i // group.

    ``codes`` are int8 [out, in]: -8..7 where ``bits`` is 4, -128..127 where it is 8. ``scales`` are floating-point
    [out, ceil(in / group)]; ``zeros`` are codes of that shape, None where all are 0.
    """

    codes: Tensor
    scales: Tensor
    bits: int
    group: int
    zeros: Tensor | None = None

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        expected = (rows, -(-columns // self.group))
        if tuple(self.scales.shape) != expected or (self.zeros is not None and tuple(self.zeros.shape) != expected):
            raise ValueError(f"{tuple(self.codes.shape)} codes in groups of {self.group} need scales {expected}.")

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return self.codes.shape

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in], computed in float32 and rounded to ``dtype`` once."""
        columns = self.codes.shape[1]
        codes = self.codes.float()
        if self.zeros is not None:
            codes = codes - spread(self.zeros.float(), self.group, columns)
        return (codes * spread(self.scales.float(), self.group, columns)).to(dtype)


def spread(values: Tensor, group: int, columns: int) -> Tensor:
    """Values [out, groups] repeated over the columns of their groups: [out, columns]."""
    return values.repeat_interleave(group, dim=1)[:, :columns]
