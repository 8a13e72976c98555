"""The training loss of packed rows: attention within documents, and weighted cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from outthink.kernels.reference.dense import dense_attend
from outthink.learn.packing import PackedRows
from outthink.models.transformer import Attend, Transformer

# Rows longer than this go through the fused operator on a CPU as well: their score matrices leave the caches.
_PRODUCT_WIDTH = 512


@dataclass(frozen=True)
class Batch:
    """`PackedRows` as tensors on a device, each [rows, width]."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    segments: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: PackedRows, device: torch.device) -> Batch:
        def move(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        return cls(*map(move, (rows.tokens, rows.targets, rows.positions, rows.segments, rows.weights)))


LossFunction = Callable[[Transformer, Batch], Tensor]
PackedLoss = Callable[[Transformer, Batch, Callable[[Tensor], Attend]], Tensor]
"""As `packed_loss`: of a model, a batch and a kind of attention."""


@dataclass(frozen=True)
class LossConfig:
    """How the loss is computed: under bf16 autocast or in float32, compiled or not, on a CPU or a GPU."""

    bf16: bool
    compiled: bool
    on_cpu: bool


def make_loss(config: LossConfig, of_packed: PackedLoss | None = None) -> LossFunction:
    """The loss of a micro-batch, `packed_loss` by default, by the attention that is fastest for its width."""
    of_packed = of_packed or packed_loss

    def loss(model: Transformer, batch: Batch) -> Tensor:
        return of_packed(model, batch, fastest_attention(batch.tokens.shape[1], config.on_cpu))

    return torch.compile(loss, dynamic=False) if config.compiled else loss


def fastest_attention(width: int, on_cpu: bool) -> Callable[[Tensor], Attend]:
    """The attention for rows of ``width`` positions."""
    return product_attention if on_cpu and width <= _PRODUCT_WIDTH else fused_attention


def packed_loss(model: Transformer, batch: Batch, attention: Callable[[Tensor], Attend]) -> Tensor:
    """The sum over positions of weight x cross-entropy in nats, a float32 scalar."""
    hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch.segments))
    losses = cross_entropy(model.logits(hidden).float(), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum()


def product_attention(segments: Tensor) -> Attend:
    """Attention within the segments [B, S] of each row, as two batched products around a softmax.

    Compiled, this is twice as fast on CPUs as the fused operator with its backward pass, for rows of up to some 500
    positions; it holds [B x heads, S, S] scores.
    """
    batch_size, seq_len = segments.shape
    visible = segments[:, :, None] == segments[:, None, :]
    visible = visible & torch.ones(seq_len, seq_len, dtype=torch.bool, device=segments.device).tril()
    bias = torch.zeros(visible.shape, device=segments.device).masked_fill(~visible, -1e9)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        num_heads, num_kv_heads, head_dim = q.shape[1], k.shape[1], q.shape[2]
        group = num_heads // num_kv_heads
        # Query heads that share a key head lie below each other, so that keys are never repeated.
        q = q.view(batch_size, seq_len, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
        q = q.reshape(batch_size * num_kv_heads, group * seq_len, head_dim) * head_dim**-0.5
        k, v = (
            x.view(batch_size, seq_len, num_kv_heads, head_dim)
            .transpose(1, 2)
            .reshape(batch_size * num_kv_heads, seq_len, head_dim)
            for x in (k, v)
        )
        scores = torch.bmm(q, k.transpose(1, 2)).float()
        scores = scores.view(batch_size, num_heads, seq_len, seq_len) + bias[:, None]
        weights = torch.softmax(scores, dim=-1).to(v.dtype)
        out = torch.bmm(weights.view(batch_size * num_kv_heads, group * seq_len, seq_len), v)
        out = out.view(batch_size, num_kv_heads, group, seq_len, head_dim).permute(0, 3, 1, 2, 4)
        return out.reshape(batch_size * seq_len, num_heads, head_dim)

    return attend


def fused_attention(segments: Tensor) -> Attend:
    """The same by torch's fused operator: for GPUs, and for long rows."""
    return dense_attend(segments.shape[0], segments.shape[1], None, segments)
