"""What to train a reward model on, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from outthink.core.errors import UserError
from outthink.learn.config import check_same_run

KINDS = ("process", "outcome")
# What a continued run may change: how it is shown and computed, not what it computes.
_FREE = ("out", "device", "precision", "compile", "processes", "micro_tokens", "checkpoint_seconds", "quiet")


@dataclass(frozen=True)
class RewardConfig:
    """A training run of a reward model of ``kind`` process or outcome; `resolve` fills in what is None.

    The trunk begins with the policy in directory ``model``, the head with 0. The run lasts ``epochs`` passes over the
    lines in the file ``labels``, or ``minutes`` of training over all its sittings if that is less; the schedule of
    the learning rate is fitted to that. ``label_tokens``: only as many of the labels, from the first, as cost at most
    so many rollout tokens together. ``heldout`` is the share of problems that are kept for the loss that is reported
    at the end. The other fields are those of `TrainConfig`.
    """

    kind: str
    labels: Path
    model: Path
    out: Path
    minutes: float | None = None
    epochs: int = 2
    label_tokens: int | None = None
    heldout: float = 0.05
    seed: int = 0
    learning_rate: float = 3e-3
    batch_tokens: int = 2048
    micro_tokens: int | None = None
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    optimizer: str = "muon"
    weight_decay: float = 0.01
    warmup_steps: int = 20
    decay_fraction: float = 0.6
    average_steps: int = 40
    device: str = "cpu"
    precision: str = "auto"
    compile: bool | None = None
    processes: int | None = None
    checkpoint_seconds: float = 45.0
    quiet: bool = False
    steps: int | None = None

    def resolve(self) -> RewardConfig:
        """This configuration with every choice made. Raises UserError for values that cannot be trained with."""
        if self.kind not in KINDS:
            raise UserError(f"kind is {self.kind!r}; known: {', '.join(KINDS)}.")
        positive = ("minutes", "epochs", "label_tokens", "learning_rate", "batch_tokens", "micro_tokens", "steps")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}; it must be more than 0.")
        if not 0 <= self.heldout < 1:
            raise UserError(f"heldout is {self.heldout}; it must lie in [0, 1).")
        micro_tokens = self.micro_tokens or (1024 if self.device == "cpu" else self.batch_tokens)
        if not self.widths or min(self.widths) < 8 or max(self.widths) > micro_tokens:
            raise UserError(f"widths are {self.widths}; they must lie between 8 and micro_tokens ({micro_tokens}).")
        if self.precision not in ("auto", "bf16", "f32"):
            raise UserError(f"precision is {self.precision!r}; known: auto, bf16, f32.")
        if self.optimizer not in ("muon", "adamw"):
            raise UserError(f"optimizer is {self.optimizer!r}; known: muon, adamw.")
        paths = {name: Path(getattr(self, name)) for name in ("labels", "model", "out")}
        return replace(self, micro_tokens=micro_tokens, widths=tuple(sorted(self.widths)), **paths)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = asdict(self)
        return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def check_continues(self, earlier: dict[str, Any]) -> None:
        """Raises UserError where this configuration would compute something else than the run it continues."""
        check_same_run(self.out, self.to_json(), earlier, _FREE)
