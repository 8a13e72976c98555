"""What a training run shows: progress while it goes, its loss curve afterwards."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from outthink.learn.checkpoints import Progress, write_atomically

_LINE_SECONDS = 15.0
CURVE_COLUMNS = ("step", "tokens", "seconds", "loss", "learning_rate")


class Reporter:
    """A progress bar in a terminal, a plain line every 15 s elsewhere, nothing if ``quiet``. A context manager."""

    def __init__(self, title: str, quiet: bool, console: Console | None = None) -> None:
        self._title, self._quiet, self._console = title, quiet, console or Console()
        self._started, self._last_line = time.monotonic(), -math.inf
        self._tokens_before: int | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> Reporter:
        if self._console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[line]}"),
            )
            self._bar = Bar(*columns, console=self._console)
            self._task = self._bar.add_task(self._title, total=1.0, line="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self._quiet:
            self._console.print(text, highlight=False)

    def step(self, state: Progress, done: float, loss: float) -> None:
        """Show the state after a step; ``done`` is the part of the run behind it, in [0, 1]."""
        now = time.monotonic()
        if self._tokens_before is None:
            # The first step compiles; speed and remaining time are counted from its end.
            self._tokens_before, self._started, self._done_before = state.tokens, now, done
        elapsed = now - self._started
        if self._quiet or (self._bar is None and now - self._last_line < _LINE_SECONDS and done < 1):
            return
        self._last_line = now
        speed = (state.tokens - self._tokens_before) / elapsed if elapsed > 0 else 0.0
        gained = done - self._done_before
        eta = _clock(elapsed * (1 - done) / gained) if gained > 0 else "?"
        line = (
            f"step {state.step:,}  loss {loss:.4f}  {speed:,.0f} tokens/s  {state.tokens / 1e6:.2f}M tokens  ETA {eta}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, line=line)
        else:
            self._console.print(f"{self._title} {100 * done:5.1f}%  {line}", highlight=False)


def write_curve(run: Path, progress: Progress) -> None:
    """Write loss.json (columns named) and loss.png into ``run``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    write_atomically(run / "loss.json", {"columns": list(CURVE_COLUMNS), "rows": progress.curve})
    if not progress.curve:
        return
    tokens = [row[1] / 1e6 for row in progress.curve]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(tokens, [row[3] for row in progress.curve], linewidth=1)
    axes.set(xlabel="training tokens (millions)", ylabel="loss (nats per unit of target weight)", yscale="log")
    axes.set_title(run.name)
    axes.grid(alpha=0.3)
    figure.savefig(run / "loss.png", dpi=120)
    plt.close(figure)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
