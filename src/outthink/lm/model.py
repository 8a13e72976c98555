"""A model that is loaded and stepping: what `outthink.load` returns."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import outthink.models
from outthink.core.budget import Ledger
from outthink.core.errors import UnknownNameError, UserError
from outthink.core.sampling import Sampling
from outthink.engine.engine import Costs, Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.reference.paged import TorchBackend
from outthink.kernels.step import Backend
from outthink.lm.local import LocalLM
from outthink.models.checkpoint import LoadedModel, load_model
from outthink.models.config import ModelConfig
from outthink.models.flops import head_flops, prefill_flops
from outthink.scheduling import Limits

PAGE_SIZE = 16
BUNDLED = Path(outthink.models.__file__).parent / "bundled"
BACKENDS = ("auto", "cpu", "reference")
PREFERENCE = ("outthink-m", "outthink-s", "arithmetic-s")


@dataclass(frozen=True)
class Model:
    """A loaded model with its engine thread. Any number of strategies, problems and users share it at once.

    Make one with `outthink.load`; `close` it, or use it as a context manager, to stop its thread.
    """

    loaded: LoadedModel
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
) -> Model:
    """Load a model and start its engine.

    ``source`` is a directory in the Hugging Face format, a hub id, or the name of a bundled model; by default the
    first of those.
    ``backend``: ``cpu`` (the compiled kernels), ``reference`` (plain torch, any device) or ``auto``, which takes the
    compiled kernels where they were built and cover the model, and else warns once. ``kv_gib`` is the memory for the
    paged KV cache (default: room for 64 sequences of full context, at most 2 GiB or a quarter of the machine's memory).
    Raises CheckpointError and UserError as `outthink.models.checkpoint.load_model`.
    """
    loaded = load_model(resolve(source), dtype=dtype, device=device)
    config = loaded.config
    pages = num_pages(config, next(loaded.model.parameters()).element_size(), kv_gib)
    made = make_backend(loaded, pages, backend, device)
    costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
    engine = Engine(made, loaded.tokenizer, costs, config.max_positions, limits)
    return Model(loaded, EngineThread(engine))


def bundled_models() -> list[str]:
    """The names of the models in the package, the default first."""
    found = {path.parent.name for path in BUNDLED.glob("*/config.json")}
    return sorted(found, key=lambda name: (PREFERENCE.index(name) if name in PREFERENCE else len(PREFERENCE), name))


def resolve(source: str | Path | None) -> str | Path:
    """The directory of a bundled model; any other source as it is. A directory of that name goes first."""
    if source is None:
        source = next(iter(bundled_models()), "")
    bundled = BUNDLED / str(source)
    return bundled if str(source) in bundled_models() and not Path(source).is_dir() else source


def make_backend(loaded: LoadedModel, pages: int, backend: str, device: str) -> Backend:
    """The backend by name. Raises UnknownNameError, and CapabilityError where ``cpu`` cannot run this model."""
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if backend == "cpu" or (backend == "auto" and device == "cpu"):
        from outthink.kernels.cpu.backend import CpuBackend
        from outthink.kernels.cpu.extension import why_not

        reason = why_not(loaded.config)
        if reason is None or backend == "cpu":
            return CpuBackend(loaded.model, pages)
        warnings.warn(f"{reason} Running on plain torch, which is several times slower.", stacklevel=3)
    return TorchBackend(loaded.model, pages)


def num_pages(config: ModelConfig, element_size: int, kv_gib: float | None) -> int:
    """How many KV pages to make of ``kv_gib`` GiB, or by default. Raises UserError where not even two fit."""
    page_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * PAGE_SIZE * element_size
    if kv_gib is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        wanted = 64 * -(-config.max_positions // PAGE_SIZE) * page_bytes
        budget = min(wanted, 2 << 30, memory // 4)
    else:
        budget = int(kv_gib * (1 << 30))
    if budget < 2 * page_bytes:
        raise UserError(f"{budget:,} bytes of KV memory hold fewer than two pages of {page_bytes:,} bytes; give more.")
    return int(budget // page_bytes)
