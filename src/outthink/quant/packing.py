"""Small unsigned numbers side by side in 32-bit words, lowest bits first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def pack(values: Tensor, bits: int) -> Tensor:
    """Words int32 [rows, ceil(columns * bits / 32)] of ``values`` [rows, columns] in 0..2**bits - 1; padded with zeros.

    ``bits`` divides 32.
    """
    count = 32 // bits
    parts = pad(values.to(torch.int64), (0, -values.shape[1] % count)).unflatten(1, (-1, count))
    words = (parts << (torch.arange(count) * bits)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: int16 [rows, columns] in 0..2**bits - 1."""
    parts = (words.to(torch.int64)[..., None] >> (torch.arange(32 // bits) * bits)) & ((1 << bits) - 1)
    return parts.flatten(1)[:, :columns].to(torch.int16)


def num_words(count: int, bits: int) -> int:
    """How many words hold so many numbers."""
    return -(-count * bits // 32)
