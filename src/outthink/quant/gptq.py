"""Calibrated rounding: GPTQ (Frantar et al. 2023, arXiv:2210.17323), with scales that mind what inputs look like.

The error that matters is tr((W - Q) H (W - Q)^T) with H the second moment of the inputs. Columns are rounded one after
another, and what each leaves behind is made good by the ones that are still to come.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outthink.kernels.coded import CodedWeight
from outthink.quant.nearest import best_scales, encode, exact_scales, split

# Finer than to nearest: a scale is chosen once for many uses.
PARTS = tuple(1.05 - 0.03 * k for k in range(18))
_BLOCK = 64
_DAMPING = 0.01  # of the mean diagonal, as in the paper


def round_calibrated(
    weight: Tensor, moment: Tensor, bits: int, group: int | None, damping: float = _DAMPING
) -> CodedWeight:
    """``weight`` [out, in] in codes for inputs of second ``moment`` [in, in]; formats as of `round_nearest`.

    The inputs of largest moment are rounded first. Computes in float64. Inputs that never occur are rounded to nearest.
    """
    rows, columns = weight.shape
    size = columns if group is None else group
    wide, moment = weight.double(), moment.double().clone()
    scales = _scales(weight.float(), moment.diagonal().float(), bits, size)
    by_column = scales.repeat_interleave(size, dim=1)[:, :columns].double()
    moment.diagonal().add_(damping * moment.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny))
    order = moment.diagonal().argsort(descending=True, stable=True)
    codes = _round_columns(wide[:, order], by_column[:, order], _inverse_factor(moment[order][:, order]), bits)
    result = torch.empty(rows, columns, dtype=torch.int8)
    result[:, order] = codes
    return CodedWeight(result, scales, bits, size)


def round_clipped(weight: Tensor, moment: Tensor, bits: int, group: int | None) -> CodedWeight:
    """``weight`` [out, in] to the nearest codes, with scales that cut what matters little to inputs of this ``moment``.

    The largest weight of a group may be cut where that makes the error of the outputs smaller, inputs taken as
    uncorrelated (the search of AWQ, Lin et al. 2024, arXiv:2306.00978, section 5).
    """
    columns = weight.shape[1]
    size = columns if group is None else group
    scales = _scales(weight.float(), moment.diagonal().float(), bits, size)
    codes = encode(split(weight.float(), size), scales[..., None], bits)
    return CodedWeight(codes.flatten(1)[:, :columns].contiguous(), scales, bits, size)


def rounding_error(weight: Tensor, rounded: Tensor, moment: Tensor) -> float:
    """tr((W - Q) H (W - Q)^T): the squared error of the outputs, summed over all."""
    difference = (weight.double() - rounded.double()) @ moment.double()
    return float((difference * (weight.double() - rounded.double())).sum())


def _scales(weight: Tensor, importance: Tensor, bits: int, size: int) -> Tensor:
    groups = split(weight, size)
    if bits == 8:
        return exact_scales(groups)
    # A little of every input's error counts, so that inputs that did not occur are not given up.
    importance = importance + 1e-3 * importance.mean() + torch.finfo(torch.float32).tiny
    return best_scales(groups, split(importance[None], size), PARTS)


def _inverse_factor(moment: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    return torch.linalg.cholesky(inverse, upper=True)


def _round_columns(weight: Tensor, scales: Tensor, factor: Tensor, bits: int) -> Tensor:
    """Codes of ``weight`` [out, in], columns in order, each error spread over those after it by ``factor``."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    rest = weight.clone()
    columns = weight.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = torch.empty(weight.shape[0], stop - start, dtype=weight.dtype)
        for column in range(start, stop):
            codes[:, column] = encode(rest[:, column], scales[:, column], bits)
            left = rest[:, column] - codes[:, column] * scales[:, column]
            errors[:, column - start] = left / factor[column, column]
            rest[:, column + 1 : stop] -= errors[:, column - start, None] * factor[column, column + 1 : stop]
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
