"""Gradients in several processes of one thread each, over one copy of the weights in shared memory.

A small model's operators are too short to be worth splitting: two threads meet at a barrier thousands of times a step,
and lose much of a busy machine to waiting. Processes meet once.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.multiprocessing
from torch import Tensor

from outthink.core.errors import OutthinkError
from outthink.learn.loss import Batch, LossConfig, LossFunction, PackedLoss, make_loss
from outthink.learn.packing import PackedRows
from outthink.models.transformer import Transformer


@dataclass(frozen=True)
class Share:
    """Micro-batches for one process, and the sum of target weights of the whole step."""

    batches: tuple[PackedRows, ...]
    weight: float


class Gradients:
    """Computes the gradient of a step in ``processes`` processes, this one among them. A context manager.

    With more than one process the weights of ``model`` move to shared memory and torch runs one thread in each.
    ``of_packed`` is the loss, by default that of a language model.
    """

    def __init__(
        self, model: Transformer, config: LossConfig, processes: int, of_packed: PackedLoss | None = None
    ) -> None:
        self._model, self.config, self._count, self._of_packed = model, config, processes, of_packed
        self._loss = make_loss(config, of_packed)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Gradients:
        self._threads = torch.get_num_threads()
        if self._count > 1:
            torch.set_num_threads(1)
            self._model.share_memory()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers:
            worker.stop()
        torch.set_num_threads(self._threads)

    def compute(self, batches: Sequence[PackedRows], weight: float) -> float:
        """Add the gradients of the mean loss of ``batches``, of target weight ``weight``, and return that loss."""
        shares = split_evenly(batches, 1 + len(self._workers))
        for worker, share in zip(self._workers, shares[1:], strict=True):
            worker.send(Share(share, weight))
        total = accumulate(self._model, self._loss, self.config, Share(shares[0], weight))
        for worker in self._workers:
            total += worker.add_gradients(self._model)
        if len(self._workers) < self._count - 1:
            # Only now, for they find what the first step compiled in the cache.
            self._workers = [_Worker(self._model, self.config, self._of_packed) for _ in range(self._count - 1)]
        return total


def accumulate(model: Transformer, loss_function: LossFunction, config: LossConfig, share: Share) -> float:
    """Add the gradients of ``share`` to those of ``model``; its part of the mean loss."""
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for rows in share.batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss = loss_function(model, Batch.of(rows, device)) / share.weight
        loss.backward()
        total += loss.detach()
    return float(total)


def split_evenly(batches: Sequence[PackedRows], count: int) -> list[tuple[PackedRows, ...]]:
    """``batches`` in ``count`` parts of about equal work: the costliest first, each to the part with least so far."""
    parts: list[list[PackedRows]] = [[] for _ in range(count)]
    work = [0.0] * count
    for batch in sorted(batches, key=lambda b: -_work(b)):
        least = work.index(min(work))
        parts[least].append(batch)
        work[least] += _work(batch)
    return [tuple(part) for part in parts]


def _work(batch: PackedRows) -> float:
    """About proportional to the time of a micro-batch: linear layers, and attention that grows with the width."""
    return batch.tokens.size * (1 + batch.tokens.shape[1] / 512)


class _Worker:
    """One further process, seen from the first."""

    def __init__(self, model: Transformer, config: LossConfig, of_packed: PackedLoss | None) -> None:
        context = torch.multiprocessing.get_context("spawn")
        size = sum(p.numel() for p in model.parameters())
        self._gradients = torch.zeros(size).share_memory_()
        self._pipe, theirs = multiprocessing.Pipe()
        args = theirs, model, config, of_packed, self._gradients
        self._process = context.Process(target=_work_loop, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def send(self, share: Share) -> None:
        self._pipe.send(share)

    def add_gradients(self, model: Transformer) -> float:
        try:
            loss = self._pipe.recv()
        except EOFError:
            self._process.join(1.0)
            raise OutthinkError(f"A gradient process ended with exit code {self._process.exitcode}.") from None
        start = 0
        for parameter in model.parameters():
            part = self._gradients[start : start + parameter.numel()].view_as(parameter)
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)
            start += parameter.numel()
        return loss

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _work_loop(
    pipe: Connection, model: Transformer, config: LossConfig, of_packed: PackedLoss | None, gradients: Tensor
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the first process's to handle
    torch.set_num_threads(1)
    loss_function = make_loss(config, of_packed)
    while True:
        try:
            share = pipe.recv()
        except EOFError:  # the first process is gone
            return
        model.zero_grad()
        loss = accumulate(model, loss_function, config, share)
        start = 0
        for parameter in model.parameters():
            part = gradients[start : start + parameter.numel()].view_as(parameter)
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad)
            start += parameter.numel()
        pipe.send(loss)
