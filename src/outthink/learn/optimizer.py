"""Optimizers, their learning rate over a run, and their state as plain tensors.

``muon``: momentum orthogonalized by Newton-Schulz for the matrices inside the layers (Jordan et al. 2024; scaled to
AdamW's step size by Liu et al. 2025, arXiv:2502.16982), AdamW for embeddings and norms. ``adamw``: AdamW for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from outthink.models.transformer import Transformer

BETAS = (0.9, 0.98)
MOMENTUM = 0.95


class Recipe(Protocol):
    """What the optimizers need to know of a resolved configuration; see `TrainConfig` for the fields."""

    @property
    def optimizer(self) -> str: ...

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def warmup_steps(self) -> int: ...

    @property
    def decay_fraction(self) -> float: ...


def make_optimizers(model: Transformer, config: Recipe) -> list[torch.optim.Optimizer]:
    """The optimizers of a resolved ``config`` over all parameters of ``model``. Norm weights are not decayed."""
    parameters = dict(model.named_parameters())
    orthogonal = {n for n, p in parameters.items() if config.optimizer == "muon" and p.dim() == 2 and ".layers." in n}
    others = [(n, p) for n, p in parameters.items() if n not in orthogonal]
    decay = config.weight_decay
    groups = [
        {"params": [p for _, p in others if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for _, p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)]
    if orthogonal:
        matrices = [parameters[name] for name in sorted(orthogonal)]
        optimizers.append(
            torch.optim.Muon(matrices, lr=0.0, momentum=MOMENTUM, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def learning_rate(config: Recipe, step: int, progress: float) -> float:
    """Warm-up over steps, constant, then linear to 0 over the last part of the run; ``progress`` is in [0, 1]."""
    assert config.learning_rate is not None
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    decay = min(1.0, max(0.0, 1.0 - progress) / config.decay_fraction)
    return config.learning_rate * min(warmup, decay)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], value: float) -> None:
    """Give every parameter group the learning rate ``value``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of ``optimizers`` as tensors named ``<optimizer>.<parameter>.<what>``."""
    return {
        f"{i}.{parameter}.{what}": tensor
        for i, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for what, tensor in state.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, into optimizers made over the same model."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        i, parameter, what = name.split(".", 2)
        states[int(i)].setdefault(int(parameter), {})[what] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
