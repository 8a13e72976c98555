"""Tiny training runs for tests."""

from dataclasses import replace
from pathlib import Path

from outthink.learn.config import TrainConfig

TINY = TrainConfig(
    size="XS", suite="arithmetic", out=Path(), steps=6, context=256, batch_tokens=512, micro_tokens=256,
    widths=(128, 256), compile=False, processes=1, precision="f32", warmup_steps=2, quiet=True,
)  # fmt: skip


def tiny(out: Path, **changes) -> TrainConfig:
    """A run of a few seconds in ``out``."""
    return replace(TINY, out=out, **changes)
