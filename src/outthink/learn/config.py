"""What to train, on what, and for how long."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from outthink.core.errors import UserError
from outthink.learn.sizes import get_size
from outthink.learn.tokenizer import VOCAB_SIZE

# What a continued run may change: how long it is, how it is shown and computed, not what it computes.
_FREE = (
    "out",
    "steps",
    "minutes",
    "device",
    "precision",
    "compile",
    "processes",
    "micro_tokens",
    "checkpoint_seconds",
    "quiet",
)


@dataclass(frozen=True)
class TrainConfig:
    """A training run; `resolve` fills in what is None from the size.

    ``suite`` names a suite or a single family, of which problems up to difficulty ``hardest`` are taken. The run lasts
    ``minutes`` of training over all its sittings, or ``steps`` optimizer steps of about ``batch_tokens`` tokens, to
    which the learning rate schedule is fitted: warm-up, a constant ``learning_rate``, then to 0 linearly over the last
    ``decay_fraction``. ``widths`` are the row lengths that documents are packed into, ``micro_tokens`` the tokens of
    one forward and backward pass. ``init_from`` is a model directory to begin with instead of random weights: of this
    size, or of a smaller one, which is grown; its tokenizer is used unless ``tokenizer`` names another. ``precision``
    is "bf16" (autocast), "f32" or "auto"; ``compile`` None means where it helps, ``processes`` None one for each core.
    """

    size: str
    suite: str
    out: Path
    minutes: float | None = None
    steps: int | None = None
    hardest: float = 1.0
    seed: int = 0
    context: int = 1024
    vocab_size: int = VOCAB_SIZE
    tokenizer: Path | None = None
    init_from: Path | None = None
    learning_rate: float | None = None
    batch_tokens: int | None = None
    micro_tokens: int | None = None
    widths: tuple[int, ...] = (256, 512, 1024)
    question_weight: float = 0.1
    optimizer: str = "muon"
    weight_decay: float = 0.01
    warmup_steps: int = 50
    decay_fraction: float = 0.4
    average_steps: int = 100
    device: str = "cpu"
    precision: str = "auto"
    compile: bool | None = None
    processes: int | None = None
    checkpoint_seconds: float = 45.0
    quiet: bool = False

    def resolve(self) -> TrainConfig:
        """This configuration with every choice made. Raises UserError for values that cannot be trained with."""
        size = get_size(self.size)
        if self.minutes is not None and self.steps is not None:
            raise UserError("Say how long to train in minutes or in steps, not both.")
        minutes = size.minutes if self.minutes is None and self.steps is None else self.minutes
        positive = {"minutes": self.minutes, "steps": self.steps, "learning_rate": self.learning_rate}
        positive |= {"batch_tokens": self.batch_tokens, "micro_tokens": self.micro_tokens, "context": self.context}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}; it must be more than 0.")
        if not 0 < self.hardest <= 1:
            raise UserError(f"hardest is {self.hardest}; it must lie in (0, 1].")
        widths = tuple(sorted({min(width, self.context) for width in self.widths}))
        batch_tokens = self.batch_tokens or size.batch_tokens
        # CPUs work best out of their caches, GPUs on as much as there is.
        micro_tokens = self.micro_tokens or (2048 if self.device == "cpu" else min(batch_tokens, 65536))
        if not widths or widths[0] < 8 or widths[-1] > micro_tokens:
            raise UserError(f"widths are {self.widths}; they must lie between 8 and micro_tokens ({micro_tokens}).")
        if self.precision not in ("auto", "bf16", "f32"):
            raise UserError(f"precision is {self.precision!r}; known: auto, bf16, f32.")
        if self.optimizer not in ("muon", "adamw"):
            raise UserError(f"optimizer is {self.optimizer!r}; known: muon, adamw.")
        return replace(
            self,
            out=Path(self.out),
            minutes=minutes,
            widths=widths,
            learning_rate=self.learning_rate or size.learning_rate,
            batch_tokens=batch_tokens,
            micro_tokens=micro_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in self._items()}

    def check_continues(self, earlier: dict[str, Any]) -> None:
        """Raises UserError where this configuration would compute something else than the run it continues."""
        check_same_run(self.out, self.to_json(), earlier, _FREE)

    def _items(self) -> list[tuple[str, Any]]:
        values = asdict(self)
        return [(f.name, values[f.name]) for f in fields(self)]


def check_same_run(out: Path, now: Mapping[str, Any], earlier: Mapping[str, Any], free: Collection[str]) -> None:
    """Raises UserError where settings other than those in ``free`` differ from the ``earlier`` ones in ``out``."""
    changed = [f"{k} ({earlier.get(k)!r}, now {now[k]!r})" for k in now if k not in free and earlier.get(k) != now[k]]
    if changed:
        raise UserError(
            f"{out} holds a run with other settings: {', '.join(changed)}. Continue it with the same ones, "
            "or train into another directory."
        )
