"""Random models and paged sequences for the tests of the CPU kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.dense import dense_attend
from outthink.kernels.step import StepBatch
from outthink.models.config import ModelConfig, RopeConfig
from outthink.models.transformer import Transformer

PAGE = 16


def make_config(**changes) -> ModelConfig:
    """A small Llama of odd sizes, with any field changed. ``window`` sets the same window for every layer."""
    values = {
        "model_type": "llama",
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 67,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "max_positions": 2048,
        "norm_eps": 1e-5,
        "rope": RopeConfig(),
        "tie_embeddings": True,
    }
    windows = changes.pop("sliding_windows", None)
    values.update(changes)
    values["sliding_windows"] = windows or (None,) * values["num_layers"]
    return ModelConfig(**values)


def make_model(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    """Weights large enough that every part moves the logits: unit-scale activations, random norms and biases."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(torch.randn_like(weight) * 0.2 + (0.0 if name.endswith("bias") else 1.0))
            elif "embed" in name:
                weight.copy_(torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) / weight.shape[1] ** 0.5)
    return model.to(dtype).eval()


@torch.inference_mode()
def dense_logits(model: Transformer, tokens: Sequence[int], dtype: torch.dtype = torch.float32) -> NDArray[np.float32]:
    """The oracle: logits [len(tokens), vocab_size] of one whole sequence, computed in ``dtype``."""
    wide = Transformer(model.config)
    wide.load_state_dict(model.state_dict())
    wide.to(dtype)
    ids = torch.tensor(tokens)
    hidden = wide(ids, torch.arange(len(tokens)), dense_attend(1, len(tokens), model.config.sliding_windows))
    return wide.logits(hidden).float().numpy()


def error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Root mean square difference."""
    return float(np.sqrt(np.mean((found - expected) ** 2)))


class Pages:
    """Deals page ids in a shuffled order, so that no test passes because pages happen to be consecutive."""

    def __init__(self, num_pages: int, seed: int) -> None:
        self.free = list(np.random.default_rng(seed).permutation(num_pages))

    def table(self, length: int, shared: Iterable[int] = ()) -> list[int]:
        """Page ids for ``length`` positions that begin with the ``shared`` ones."""
        table = list(shared)
        while len(table) * PAGE < length:
            table.append(int(self.free.pop()))
        return table


def make_batch(
    chunks: Sequence[tuple[Sequence[int], int, Sequence[int]]], wanted: Sequence[int] | None = None
) -> StepBatch:
    """A step of chunks (tokens, first position, page table); logits of the ``wanted`` flat rows, None: of all."""
    tokens = [token for chunk, _, _ in chunks for token in chunk]
    positions = [start + i for chunk, start, _ in chunks for i in range(len(chunk))]
    tables = np.zeros((len(chunks), max((len(table) for _, _, table in chunks), default=0)), np.int32)
    for row, (_, _, table) in zip(tables, chunks, strict=True):
        row[: len(table)] = table
    starts = np.cumsum([0, *(len(chunk) for chunk, _, _ in chunks)])
    return StepBatch(
        tokens=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        query_starts=starts.astype(np.int32),
        context_lengths=np.array([start + len(chunk) for chunk, start, _ in chunks], np.int32),
        page_tables=tables,
        logit_rows=np.array(range(len(tokens)) if wanted is None else wanted, np.int32),
    )


def run_chunked(
    backend: CpuBackend, tokens: Sequence[int], table: Sequence[int], sizes: Sequence[int], start: int = 0
) -> NDArray[np.float32]:
    """Logits of every position of one sequence computed alone, in chunks of the given sizes (the last repeats)."""
    rows, done, step = [], start, 0
    while done < len(tokens):
        size = sizes[min(step, len(sizes) - 1)]
        rows.append(backend.run(make_batch([(tokens[done : done + size], done, table)])))
        done, step = done + size, step + 1
    return np.concatenate(rows)
