"""What training runs share: the state of one, its steps and checkpoints, and how it uses the machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from outthink.core.errors import UserError
from outthink.learn.checkpoints import Progress, load_checkpoint, save_checkpoint
from outthink.learn.data import StepData
from outthink.learn.loss import LossConfig, PackedLoss
from outthink.learn.optimizer import (
    Recipe,
    learning_rate,
    make_optimizers,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)
from outthink.learn.parallel import Gradients
from outthink.models.transformer import Transformer

GRAD_CLIP = 1.0
_MAX_PROCESSES = 8
_CURVE_EVERY = 10


class FitConfig(Recipe, Protocol):
    """What a run needs to know of its configuration, beside the recipe; see `TrainConfig` for the fields."""

    @property
    def out(self) -> Path: ...

    @property
    def minutes(self) -> float | None: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def average_steps(self) -> int: ...

    @property
    def checkpoint_seconds(self) -> float: ...


class Fit:
    """The state of a training run: model, averaged weights, optimizers and how far it has come.

    Begins with ``model``, which it moves to ``device``, or continues with the latest checkpoint in ``config.out``.
    """

    def __init__(
        self,
        config: FitConfig,
        model: Transformer,
        device: torch.device,
        loss: LossConfig,
        processes: int,
        of_packed: PackedLoss | None = None,
    ) -> None:
        self.config, self.device, self.model = config, device, model.to(device)
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.optimizers = make_optimizers(model, config)
        self.progress = Progress()
        self._restore()
        self.gradients = Gradients(model, loss, processes, of_packed)
        self._recent: list[float] = []
        self._saved_at = self._resumed_at = time.monotonic()
        self._seconds_before = self.progress.seconds

    @property
    def done(self) -> float:
        """The part of the run that is behind, in [0, 1], by steps or minutes, whichever is further."""
        steps, minutes = self.config.steps, self.config.minutes
        by_steps = self.progress.step / steps if steps is not None else 0.0
        by_minutes = self.progress.seconds / (60 * minutes) if minutes is not None else 0.0
        return min(1.0, max(by_steps, by_minutes))

    def start_clock(self) -> None:
        """Count training time from now on."""
        self._saved_at = self._resumed_at = time.monotonic()

    def step(self, data: StepData) -> float:
        """One optimizer step on ``data``; the mean loss in nats for a unit of target weight."""
        assert data.step == self.progress.step
        rate = learning_rate(self.config, self.progress.step, self.done)
        set_learning_rate(self.optimizers, rate)
        loss = self.gradients.compute(data.batches, data.weight)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._average_weights()
        self._record(data, loss, rate)
        return loss

    def save_if_due(self) -> None:
        """Save where the last save is ``checkpoint_seconds`` ago."""
        if time.monotonic() - self._saved_at >= self.config.checkpoint_seconds:
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of this very state."""
        groups = {"model": dict(self.model.named_parameters()), "average": self.average}
        groups["optimizer"] = optimizer_tensors(self.optimizers)
        tensors = {f"{kind}.{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}
        path = save_checkpoint(self.config.out, self.progress, tensors)
        self._saved_at = time.monotonic()
        return path

    @torch.no_grad()
    def _average_weights(self) -> None:
        """Exponential moving average of the weights, over a window that grows with the run up to ``average_steps``."""
        window = min(self.config.average_steps, 1 + self.progress.step / 10)
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 / window)

    def _record(self, data: StepData, loss: float, rate: float) -> None:
        p = self.progress
        p.step, p.tokens, p.problems = p.step + 1, p.tokens + data.tokens, p.problems + data.problems
        p.too_long += data.too_long
        p.seconds = self._seconds_before + time.monotonic() - self._resumed_at
        self._recent.append(loss)
        if p.step % _CURVE_EVERY == 0:
            mean = sum(self._recent) / len(self._recent)
            p.curve.append([p.step, p.tokens, round(p.seconds, 1), round(mean, 5), rate])
            self._recent.clear()

    def _restore(self) -> None:
        found = load_checkpoint(self.config.out)
        if found is None:
            return
        self.progress, tensors = found
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor.to(self.device)
        self.model.load_state_dict(groups["model"])
        self.average = {name: groups["average"][name] for name in self.average}
        restore_optimizers(self.optimizers, groups["optimizer"])


def open_device(name: str) -> torch.device:
    """The device called ``name``; raises UserError where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"Device {name!r} cannot be used: {error}".split("\n")[0]) from error
    return device


def num_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_processes(asked: int | None, device: str, lasts: bool) -> int:
    """How many processes compute gradients: ``asked``, or one for each core where a run on CPUs ``lasts``."""
    if asked is not None:
        return asked
    return min(num_cores(), _MAX_PROCESSES) if device == "cpu" and lasts else 1


def uses_bf16(precision: str, device: str) -> bool:
    """Whether ``precision`` (bf16, f32 or auto) means bf16 autocast on this machine."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_bf16_supported()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that ctrl-C and SIGTERM set, instead of stopping the program in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield stop
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
