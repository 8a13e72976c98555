"""A model that is loaded and stepping: what `outthink.load` returns."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import outthink.models
from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, CheckpointError, UnknownNameError, UserError
from outthink.core.sampling import Sampling
from outthink.engine.engine import Costs, Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.cpu.extension import why_not
from outthink.kernels.cpu.weights import coded_format
from outthink.kernels.step import Backend
from outthink.lm.local import LocalLM
from outthink.models.config import ModelConfig
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.hub import resolve_source
from outthink.models.opened import MappedWeights, OpenedModel, open_model, read_config
from outthink.scheduling import Limits

if TYPE_CHECKING:
    from outthink.models.checkpoint import LoadedModel

PAGE_SIZE = 16
BUNDLED = Path(outthink.models.__file__).parent / "bundled"
BACKENDS = ("auto", "cpu", "reference")
WEIGHTS = ("auto", "int8", "int4")
KV_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
KV = ("auto", *KV_BYTES)
MAX_THREADS = 1024
PREFERENCE = ("outthink-m", "outthink-s")


@dataclass(frozen=True)
class Model:
    """A loaded model with its engine thread. Any number of strategies, problems and users share it at once.

    Make one with `outthink.load`; `close` it, or use it as a context manager, to stop its thread.
    """

    loaded: LoadedModel | OpenedModel
    thread: EngineThread

    @property
    def name(self) -> str:
        return self.loaded.source.name

    @property
    def engine(self) -> Engine:
        return self.thread.engine

    def session(self, ledger: Ledger | None = None, sampling: Sampling | None = None) -> LocalLM:
        """This model as an `LM` bound to ``ledger`` (unlimited by default), with a tree of its own."""
        return LocalLM(self.thread, self.loaded.tokenizer, ledger or Ledger(), sampling, name=self.name)

    @property
    def chat(self) -> bool:
        """Whether the model has a chat template."""
        return self.loaded.tokenizer.chat_template is not None

    def spell(self, token: int) -> str:
        """What a token id spells; broken characters are replaced."""
        return self.loaded.tokenizer.token_bytes(token).decode(errors="replace")

    def close(self) -> None:
        """Stop the engine; requests in flight end with an EngineError."""
        self.thread.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def load(
    source: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    backend: str = "auto",
    kv_gib: float | None = None,
    limits: Limits | None = None,
    weights: str = "auto",
    kv: str = "auto",
    threads: int | None = None,
) -> Model:
    """Load a model and start its engine.

    ``source`` is a directory in the Hugging Face format, a hub id, or the name of a bundled model; by default the
    first of those.
    ``backend``: ``cpu`` (the compiled kernels), ``reference`` (plain torch, any device) or ``auto``, which takes the
    compiled kernels where they were built and cover the model, and else warns once. ``kv_gib`` is the memory for the
    paged KV cache (default: room for 64 sequences of full context, at most 2 GiB or a quarter of the machine's memory).
    ``weights``: ``auto`` (as stored: a quantized checkpoint is computed on its own codes where the backend can), or
    ``int8`` or ``int4``, to which the layers' weights are rounded to nearest on loading. ``kv`` is the format of keys
    and values in the compiled kernels: ``float32``, ``bfloat16``, ``int8``, or ``auto``, float32 with float32 weights
    and else bfloat16. ``threads`` compute on the CPU, by default one on each processor that this process may use; plain
    torch has one number for the whole process, which is set.
    Raises CheckpointError and UserError as `outthink.models.checkpoint.load_model`.
    """
    directory = resolve_source(resolve(source))
    if (kind := read_config(directory).reward) is not None:
        short = {"process": "prm", "outcome": "orm"}[kind]
        raise CheckpointError(f"{directory} is a reward model: it judges lines, as --verifier {short}:{directory}.")
    loaded, computed = open_backend(directory, dtype, device, backend, kv_gib, weights, kv, threads)
    config = loaded.config
    costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
    engine = Engine(computed, loaded.tokenizer, costs, config.max_positions, limits)
    return Model(loaded, EngineThread(engine))


def bundled_models() -> list[str]:
    """The names of the language models in the package, the default first."""
    directories = [path.parent for path in BUNDLED.glob("*/config.json")]
    found = [directory.name for directory in directories if read_config(directory).reward is None]
    return sorted(found, key=lambda name: (PREFERENCE.index(name) if name in PREFERENCE else len(PREFERENCE), name))


def resolve(source: str | Path | None) -> str | Path:
    """The directory of a bundled model; any other source as it is. A directory of that name goes first."""
    if source is None:
        source = next(iter(bundled_models()), "")
    bundled = BUNDLED / str(source)
    return bundled if str(source) in bundled_models() and not Path(source).is_dir() else source


def open_backend(
    source: str | Path,
    dtype: str,
    device: str,
    backend: str,
    kv_gib: float | None,
    weights: str = "auto",
    kv: str = "auto",
    threads: int | None = None,
) -> tuple[LoadedModel | OpenedModel, Backend]:
    """The model and the backend that computes it; see `load`.

    Raises UnknownNameError for an unknown backend or format, CapabilityError where ``cpu`` cannot run this model.
    """
    for kind, name, known in (("backend", backend, BACKENDS), ("weights", weights, WEIGHTS), ("kv", kv, KV)):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UserError(f"threads={threads}: from 1 to {MAX_THREADS:,} threads can compute.")
    if backend == "cpu" and device != "cpu":
        raise UserError(f"The backend 'cpu' runs on the CPU, not on {device!r}; leave one of the two out.")
    if backend == "reference" or device != "cpu":
        return _reference(source, dtype, device, kv_gib, weights, kv, threads)
    # Packed straight from the files, and without torch, which takes longer to import than all the rest.
    opened = open_model(source, dtype)
    reason = why_not(opened.config)
    if reason is None or backend == "cpu":
        return _compiled(opened, dtype, kv_gib, weights, kv, threads)
    warnings.warn(f"{reason} Running on plain torch, which is several times slower.", stacklevel=3)
    return _reference(source, dtype, device, kv_gib, weights, kv, threads)


def _compiled(
    opened: OpenedModel, dtype: str, kv_gib: float | None, weights: str, kv: str, threads: int | None
) -> tuple[OpenedModel, Backend]:
    plain = "bfloat16" if opened.config.dtype == "bfloat16" else "float32"
    opened = replace(opened, config=replace(opened.config, dtype=plain))

    def make(weight_format: str, group: int, tensors: Any) -> tuple[OpenedModel, Backend]:
        kv_format = kv if kv != "auto" else "float32" if weight_format == "float32" else "bfloat16"
        pages = num_pages(opened.config, KV_BYTES[kv_format], kv_gib)
        options = {"weight_format": weight_format, "group": group, "kv_format": kv_format}
        return opened, CpuBackend(opened, pages, threads=threads, tensors=tensors, **options)

    rounded = plain if weights == "auto" else weights
    if not opened.quantized:
        return make(rounded, 32, MappedWeights(opened))
    from outthink.models.checkpoint import StoredWeights
    from outthink.models.quantized import stored_layout

    if weights == dtype == "auto" and (layout := stored_layout(opened.source)) is not None:
        chosen = coded_format(opened.config, layout.bits, layout.group)
        if chosen is None and layout.bits == 8 and opened.all_coded:
            warnings.warn(
                f"The CPU kernels take 8-bit codes with one scale to an output, and here {layout.group} inputs share "
                "one: the weights are rounded again to int8. dtype float32 computes them as they are stored.",
                stacklevel=4,
            )
            whole = replace(opened, config=replace(opened.config, dtype="float32"))
            return make("int8", 32, StoredWeights(whole))
        try:
            if chosen is None:
                groups = f"groups of {layout.group}" if layout.group else "whole channels"
                raise CapabilityError(
                    f"The CPU kernels do not take codes of {layout.bits} bits in {groups} as they are."
                )
            return make(*chosen, StoredWeights(opened, expand=False))
        except CapabilityError as error:
            warnings.warn(f"{error} The weights are dequantized to {plain}.", stacklevel=4)
    return make(rounded, 32, StoredWeights(opened))


def _reference(
    source: str | Path, dtype: str, device: str, kv_gib: float | None, weights: str, kv: str, threads: int | None
) -> tuple[LoadedModel, Backend]:
    import torch

    from outthink.kernels.reference.paged import TorchBackend
    from outthink.models.checkpoint import load_model
    from outthink.models.quantized import round_layers

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(source, dtype=dtype, device=device)
    if kv not in ("auto", loaded.config.dtype):
        raise UserError(f"kv={kv!r}: the reference backend keeps keys and values in the dtype of the weights.")
    if weights != "auto":
        round_layers(loaded.model, bits=8 if weights == "int8" else 4, group=None if weights == "int8" else 32)
    pages = num_pages(loaded.config, getattr(torch, loaded.config.dtype).itemsize, kv_gib)
    return loaded, TorchBackend(loaded.model, pages)


def num_pages(config: ModelConfig, element_size: int, kv_gib: float | None) -> int:
    """How many KV pages to make of ``kv_gib`` GiB, or by default. Raises UserError where not even two fit."""
    page_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * PAGE_SIZE * element_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if kv_gib is None:
        wanted = 64 * -(-config.max_positions // PAGE_SIZE) * page_bytes
        budget = min(wanted, 2 << 30, memory // 4)
    else:
        if not 0 < kv_gib * (1 << 30) <= memory:
            raise UserError(f"kv_gib={kv_gib!r} must be above 0 and at most this machine's {memory >> 30} GiB.")
        budget = int(kv_gib * (1 << 30))
    if budget < 2 * page_bytes:
        raise UserError(f"{budget:,} bytes of KV memory hold fewer than two pages of {page_bytes:,} bytes; give more.")
    return int(budget // page_bytes)
