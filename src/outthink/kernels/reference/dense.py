"""Dense causal attention over whole sequences of one length, for training and as an oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def dense_attend(
    batch_size: int,
    seq_len: int,
    sliding_windows: Sequence[int | None] | None = None,
    segment_ids: Tensor | None = None,
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """An ``attend(layer, q, k, v)`` for ``batch_size`` sequences of ``seq_len`` positions, flattened to T = B x S rows.

    q is [T, num_heads, head_dim], k and v [T, num_kv_heads, head_dim], the result like q. Position p sees keys of its
    own sequence in (p - window, p], window being the layer's entry in ``sliding_windows`` (None: all); with
    ``segment_ids`` [B, S] only keys of its own segment, for packed training.
    """

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = sliding_windows[layer] if sliding_windows is not None else None
        q, k, v = (x.view(batch_size, seq_len, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        grouped = q.shape[1] != k.shape[1]
        if segment_ids is None and (window is None or window >= seq_len):
            out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            mask = visible_keys(seq_len, window, segment_ids, q.device)
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def visible_keys(seq_len: int, window: int | None, segment_ids: Tensor | None, device: torch.device) -> Tensor:
    """Which keys a position sees: bool [S, S], or [B, 1, S, S] with ``segment_ids`` [B, S]."""
    position = torch.arange(seq_len, device=device)
    distance = position[:, None] - position[None, :]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    if segment_ids is None:
        return visible
    return visible & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
