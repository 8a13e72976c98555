"""The reference backend: plain torch over paged keys and values. Short and obvious; it is the specification."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from outthink.kernels.step import Int32s, StepBatch


class TorchBackend:
    """Runs a `Transformer` step by step, with keys and values in pages [layers, pages * page_size, kv_heads, head_dim].

    ``model`` is ``outthink.models.transformer.Transformer`` on ``device``; KV is kept in ``dtype``.
    """

    name = "reference"

    def __init__(self, model, num_pages: int, page_size: int = 16) -> None:
        self.model, self.config = model, model.config
        self.num_pages, self.page_size = num_pages, page_size
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        shape = (
            self.config.num_layers,
            num_pages * page_size,
            self.config.num_kv_heads,
            self.config.head_dim,
        )
        self.keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """See `Backend.run`."""
        step = PagedStep(batch, self)
        hidden = self.model(self._to_device(batch.tokens), self._to_device(batch.positions), step.attend)
        rows = hidden[self._to_device(batch.logit_rows)]
        return self.model.logits(rows).float().cpu().numpy()

    @torch.inference_mode()
    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """See `Backend.copy_pages`. All sources are read before any target is written."""
        for kv in (self.keys, self.values):
            pages = kv.view(kv.shape[0], self.num_pages, self.page_size, *kv.shape[2:])
            pages[:, self._to_device(target)] = pages[:, self._to_device(source)]

    def _to_device(self, array: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(array).to(self.device, torch.long)


class PagedStep:
    """The attention of one step: writes each layer's keys and values into their slots, then attends over pages."""

    def __init__(self, batch: StepBatch, backend: TorchBackend) -> None:
        self.backend = backend
        size = backend.page_size
        counts = np.diff(batch.query_starts)
        sequence_of = np.repeat(np.arange(len(counts)), counts)
        pages = batch.page_tables[sequence_of, batch.positions // size]
        self.slots = backend._to_device(pages * size + batch.positions % size)
        # Sequences that compute equally many positions are attended to together: all decodes, then each chunk length.
        order = sorted(range(len(counts)), key=lambda s: counts[s])
        self.groups = [
            _Group(batch, np.array(list(members)), int(count), backend)
            for count, members in groupby(order, key=lambda s: counts[s])
        ]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [T, Hkv, D]; causal attention of the flat rows q [T, H, D] over their own sequences' pages."""
        keys, values = self.backend.keys[layer], self.backend.values[layer]
        keys[self.slots] = k.to(keys.dtype)
        values[self.slots] = v.to(values.dtype)
        window = self.backend.config.sliding_windows[layer]
        out = torch.empty_like(q)
        for group in self.groups:
            out[group.rows] = group.attend(q, keys, values, window)
        return out


class _Group:
    """Sequences of one step that compute ``count`` positions each, padded to the longest context among them."""

    def __init__(self, batch: StepBatch, members: NDArray[np.int64], count: int, backend: TorchBackend) -> None:
        size, to_device = backend.page_size, backend._to_device
        contexts = batch.context_lengths[members]
        longest = int(contexts.max())
        rows = batch.query_starts[members][:, None] + np.arange(count)
        place = np.arange(longest)
        # Padding reads the sequence's own last slot: a stale one may hold anything, and 0 x NaN would be NaN.
        own = np.minimum(place, contexts[:, None] - 1)
        slots = np.take_along_axis(batch.page_tables[members], own // size, axis=1) * size + own % size
        self.shape = (len(members), count)
        self.rows = to_device(rows.reshape(-1).astype(np.int32))
        self.slots = to_device(slots.astype(np.int32))
        self.distance = to_device(batch.positions[rows][:, :, None] - place[None, None, :].astype(np.int32))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        size, count = self.shape
        query = q[self.rows].view(size, count, *q.shape[1:]).transpose(1, 2)
        key, value = keys[self.slots].transpose(1, 2), values[self.slots].transpose(1, 2)
        visible = self.distance >= 0
        if window is not None:
            visible &= self.distance < window
        out = F.scaled_dot_product_attention(
            query, key.to(q.dtype), value.to(q.dtype), attn_mask=visible[:, None], enable_gqa=True
        )
        return out.transpose(1, 2).reshape(size * count, *q.shape[1:])
