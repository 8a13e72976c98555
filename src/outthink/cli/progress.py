"""What is seen while a strategy works: lines finished, the answer so far, tokens spent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from outthink.cli.console import err, printable
from outthink.core.question import parse_answer
from outthink.core.thought import Thought

if TYPE_CHECKING:
    from outthink.core.budget import Ledger
    from outthink.lm.protocol import LM

REFRESH_HZ = 8
SHOWN_ANSWERS = 4


class Progress:
    """Reads an `LM`'s tree and ledger while they grow. Draws only; the work never waits for it."""

    def __init__(self, title: str) -> None:
        self.lm: LM | None = None
        self._spinner = Spinner("dots", Text(title, style="bold"))
        self._answers: dict[Thought, str | None] = {}
        self._started = time.monotonic()
        self._stopping = False

    def start(self, lm: LM) -> None:
        """Begin to watch; the ``on_start`` of `outthink.solve`."""
        self.lm, self._started = lm, time.monotonic()

    def stop(self) -> None:
        """Cut the work: it ends at the next step with the best answer so far."""
        if self.lm is None:
            raise KeyboardInterrupt
        self._stopping = True
        self.lm.ledger.cancel()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def tally(self) -> tuple[int, Counter[str]]:
        """How many lines are finished, and how often each answer was reached among them."""
        if self.lm is None:
            return 0, Counter()
        lines = [t for t in self.lm.tree.walk() if t.finish is not None and not t.children]
        for line in lines:
            if line not in self._answers:
                self._answers[line] = _answer(line)
        found = (self._answers[line] for line in lines)
        return len(lines), Counter(answer for answer in found if answer is not None)

    def render(self) -> Group:
        """The view as it is now, three rows."""
        if self.lm is None:
            return Group(self._spinner)
        lines, answers = self.tally()
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(*_meter(self.lm.ledger, time.monotonic() - self._started))
        return Group(self._spinner, row, Text.assemble("  ", _summary(lines, answers), self._hint()))

    def _hint(self) -> Text:
        hint = "  stopping; ctrl-C again to abort" if self._stopping else "  ctrl-C: stop and answer now"
        return Text(hint, style="dim")


def _answer(line: Thought) -> str | None:
    """What a finished line answers. Of one that was cut, only whole lines of text count: "answer: 4" may have been on
    its way to 42.
    """
    text = "".join(part.text for part in line.line())
    return parse_answer(text if line.finish == "stop" else text[: text.rfind("\n") + 1])


def _meter(ledger: Ledger, elapsed: float) -> list[ProgressBar | Text]:
    bill, budget = ledger.bill, ledger.budget
    spent = f"{bill.tokens:,}" + (f" of {budget.tokens:,.0f} tokens" if budget.tokens is not None else " tokens")
    clock = f"{elapsed:.1f}" + (f" of {budget.seconds:g} s" if budget.seconds is not None else " s")
    speed = f"{bill.tokens / elapsed:,.0f} tok/s" if elapsed > 0.2 else ""
    figures = Text("  ".join(part for part in (spent, speed, clock) if part))
    if not ledger.limited:
        return [Text("  ") + figures]
    return [Text(" "), ProgressBar(total=1.0, completed=ledger.fraction_spent, width=28), figures]


def _summary(lines: int, answers: Counter[str]) -> Text:
    counted = f"{lines} line{'' if lines == 1 else 's'}"
    if not answers:
        return Text.assemble((counted, "bold"), "  no answer yet")
    ((best, votes), *others) = answers.most_common(SHOWN_ANSWERS)
    rest = "".join(f", {_short(answer)} ×{count}" for answer, count in others)
    return Text.assemble((counted, "bold"), "  best so far ", (_short(best), "bold green"), f" ×{votes}{rest}")


def _short(answer: str) -> str:
    answer = printable(answer)
    return answer if len(answer) <= 24 else answer[:23] + "…"


@contextmanager
def watched(title: str, show: bool) -> Iterator[Progress]:
    """A `Progress`, shown live on stderr where that is a terminal and ``show`` is set."""
    progress, console = Progress(title), err()
    if not (show and console.is_terminal):
        yield progress
        return
    render: Callable[[], Group] = progress.render
    with Live(get_renderable=render, console=console, refresh_per_second=REFRESH_HZ, transient=True):
        yield progress
