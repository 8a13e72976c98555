"""`CpuBackend`: the compiled step behind the engine's `Backend` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import CapabilityError
from outthink.kernels.cpu.extension import PAGE_SIZE, compiled, usable_cores, why_not
from outthink.kernels.cpu.weights import Weight, load_weights
from outthink.kernels.step import DecodeBatch, Decoded, Int32s, Laws, StepBatch

FORMATS = ("float32", "bfloat16", "int8", "int4")
KV_FORMATS = ("float32", "bfloat16", "int8")


class CpuBackend:
    """Runs a `Transformer` on the CPU, a whole step in one call with the interpreter lock released.

    A row's logits are the same to the last bit whatever else is in the batch, however its prefix was cut into chunks,
    whether its pages are shared, and for any number of threads (on processors with the same instruction set).

    ``weight_format`` "float32" computes in float32 throughout; "bfloat16" rounds weights and the inputs of every
    product to bfloat16 and adds in float32. "int8" and "int4" round weights to the nearest of 255 codes for each
    output, or of 16 for each ``group`` (32 or 128) of an output's inputs; products take int8 inputs with a scale for
    each 128, and the head is int8. None follows the model's weights. The weights are copied, except an embedding that
    already is float32 or bfloat16. ``kv_format`` is "float32", "bfloat16", or "int8" with a bfloat16 scale for each key
    and value of a head; None means float32 with float32 weights, else bfloat16. ``threads`` None means all cores that
    this process may use; ``isa`` is one of "auto", "avx512", "avx2", "generic". ``tensors`` are the weights by name,
    where of ``model`` its ``config`` alone is to be touched: arrays, tensors, or a `CodedWeight`, whose codes and
    scales are taken as they are; ``weight_format`` and ``group`` must then be those of `coded_format`.
    Only one thread at a time may use it: a second one gets a RuntimeError. What it is given is copied first, but for
    logits to sample from, which must not change meanwhile.
    Raises CapabilityError where the kernels do not cover the model, CheckpointError for weights that cannot be
    quantized, ValueError for other bad arguments.
    """

    name = "cpu"
    page_size = PAGE_SIZE

    def __init__(
        self,
        model: Any,
        num_pages: int,
        page_size: int = PAGE_SIZE,
        threads: int | None = None,
        weight_format: str | None = None,
        group: int = 32,
        kv_format: str | None = None,
        isa: str = "auto",
        tensors: Mapping[str, Weight] | None = None,
    ) -> None:
        config, extension = model.config, compiled()
        reason = why_not(config)
        if extension is None or reason is not None:
            raise CapabilityError(reason)
        if page_size != PAGE_SIZE:
            raise ValueError(f"page_size is {page_size}; the CPU kernels have pages of {PAGE_SIZE} positions.")
        if weight_format is None:
            stored = str(model.model.embed_tokens.weight.dtype)
            weight_format = "bfloat16" if stored == "torch.bfloat16" else "float32"
        if weight_format not in FORMATS:
            raise ValueError(f"weight_format is {weight_format!r}; known: {', '.join(FORMATS)}.")
        if kv_format is None:
            kv_format = "float32" if weight_format == "float32" else "bfloat16"
        if kv_format not in KV_FORMATS:
            raise ValueError(f"kv_format is {kv_format!r}; known: {', '.join(KV_FORMATS)}.")
        self.num_pages, self.weight_format, self.kv_format = num_pages, weight_format, kv_format
        self.threads = usable_cores() if threads is None else threads
        self.max_positions = min(config.max_positions, num_pages * PAGE_SIZE)
        self.num_outputs = config.num_outputs
        self._extension = extension
        self._core = extension.Core(
            vocab_size=config.vocab_size,
            num_outputs=config.num_outputs,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_positions=self.max_positions,
            num_pages=num_pages,
            norm_eps=config.norm_eps,
            format=weight_format,
            group=group,
            kv=kv_format,
            windows=[window or 0 for window in config.sliding_windows],
            isa=isa,
            threads=self.threads,
        )
        load_weights(self._core, model, self.max_positions, group if weight_format == "int4" else None, tensors)
        self.isa: str = self._core.isa
        self.weight_bytes: int = self._core.weight_bytes  # of the products: what a step reads at least

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """See `Backend.run`. Raises ValueError for arrays that do not make a step; then nothing has been computed."""
        logits = np.empty((len(batch.logit_rows), self.num_outputs), np.float32)
        try:
            self._core.run(
                batch.tokens,
                batch.positions,
                batch.query_starts,
                batch.context_lengths,
                batch.page_tables,
                batch.logit_rows,
                logits,
            )
        except TypeError:
            raise ValueError(_describe_types(batch)) from None
        return logits

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """See `Backend.copy_pages`. All sources are read before any target is written."""
        try:
            self._core.copy_pages(source, target)
        except TypeError:
            raise ValueError("source and target must be contiguous int32 arrays of one axis.") from None

    def spell(self, pieces: Sequence[bytes]) -> None:
        """See `Decoder.spell`."""
        self._core.set_pieces(b"".join(pieces), list(accumulate(map(len, pieces))))

    def sample(
        self, logits: NDArray[np.float32], positions: Int32s, laws: Laws
    ) -> tuple[Int32s, NDArray[np.float64], NDArray[np.float64]]:
        """See `Decoder.sample`. Raises ValueError for options out of range and logits that are not finite."""
        count = len(logits)
        tokens, log_probs, sample_log_probs = np.empty(count, np.int32), np.empty(count), np.empty(count)
        self._core.sample(logits, positions, self._laws(laws), tokens, log_probs, sample_log_probs)
        return tokens, log_probs, sample_log_probs

    def decode(self, batch: DecodeBatch, steps: int, seconds: float, interrupt: Int32s) -> Decoded:
        """See `Decoder.decode`. Raises ValueError for what does not make a batch; then nothing has been computed."""
        shape = (len(batch.tokens), steps)
        tokens, log_probs, sample_log_probs = np.empty(shape, np.int32), np.empty(shape), np.empty(shape)
        counts = np.empty(shape[0], np.int32)
        arrays = self._extension.DecodeArrays(
            batch.tokens,
            batch.positions,
            batch.page_tables,
            batch.limits,
            batch.groups,
            self._laws(batch.laws),
            interrupt,
        )
        stops = [(list(group.tokens), list(group.strings)) for group in batch.stops]
        done = self._core.decode(arrays, stops, list(batch.tails), seconds, tokens, log_probs, sample_log_probs, counts)
        return Decoded(done, counts, tokens, log_probs, sample_log_probs)

    @property
    def forward_seconds(self) -> float:
        """Wall time spent in the model's own steps so far, without what draws tokens."""
        return self._core.forward_seconds

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Wall time spent so far in each stage of the steps: norms, products, attention, by name."""
        return self._core.stage_seconds

    def forward_cpu(self) -> float:
        """The same as processor time of the stepping thread, counted from the first call on."""
        self._core.set_timed(True)
        return self._core.forward_cpu

    def _laws(self, laws: Laws) -> Any:
        return self._extension.Laws(laws.keys, laws.temperature, laws.top_p, laws.min_p, laws.top_k)


def _describe_types(batch: StepBatch) -> str:
    """Which field of the batch has a type, number of axes or layout that the kernels do not take."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        axes = 2 if field.name == "page_tables" else 1
        if not isinstance(value, np.ndarray):
            return f"{field.name} is a {type(value).__name__}; expected a NumPy array."
        if value.dtype != np.int32 or value.ndim != axes or not value.flags.c_contiguous:
            return f"{field.name} is {value.dtype} {value.shape}; expected contiguous int32 with {axes} axes."
    return "The arrays of the batch are not what the kernels take."
