"""How a posterior is told in a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from outthink.cli.console import printable, table
from outthink.show.words import confidence_words, evidence_words, stop_words, verdict

if TYPE_CHECKING:
    from outthink.core.posterior import Posterior
    from outthink.core.question import Question

BAR_WIDTH = 28
SHOWN_ANSWERS = 8
SHOWN_LINES = 20


def print_report(console: Console, posterior: Posterior, question: Question, interrupted: bool = False) -> None:
    """Best answer, confidence, the law over answers, the winning line and the bill."""
    console.print(_headline(posterior, verdict(question, posterior.best)))
    if posterior.best is not None:
        console.print(Text(f"confidence {posterior.confidence:.3g}: {confidence_words(posterior)}"))
    if (evidence := evidence_words(posterior)) is not None:
        console.print(Text(evidence, style="dim"))
    if (stopped := stop_words(posterior.stopped, interrupted)) is not None:
        console.print(Text(stopped, style="yellow"))
    if posterior.candidates:
        console.print()
        console.print(_law(posterior, question))
    if (line := posterior.best_line) is not None and line.text.strip():
        console.print()
        console.print(Text(_line_title(posterior), style="dim"))
        console.print(Padding(Text(printable(_shortened(line.text.strip("\n")))), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(Text(f"cost  {posterior.cost}{_speed(posterior)}", style="dim"), soft_wrap=True)


def _headline(posterior: Posterior, right: bool | None) -> Text:
    if posterior.best is None:
        return Text("no answer", style="bold yellow")
    marks = {True: ("  ✓ right", "green"), False: ("  ✗ wrong", "red"), None: ("", "")}
    return Text.assemble("answer  ", (printable(posterior.best), "bold cyan"), marks[right])


def _law(posterior: Posterior, question: Question) -> object:
    made = table("answer", "share", "", "lines")
    made.columns[1].justify = made.columns[3].justify = "right"
    shares = posterior.weights
    lines = {answer: sum(c.answer == answer for c in posterior.candidates) for answer in shares}
    for number, (answer, share) in enumerate(shares.items()):
        if number == SHOWN_ANSWERS and len(shares) > SHOWN_ANSWERS + 1:
            left = list(shares)[SHOWN_ANSWERS:]
            rest = math.fsum(shares[a] for a in left)
            made.add_row(f"{len(left)} more", f"{rest:.1%}", _bar(rest, "dim"), str(sum(lines[a] for a in left)))
            break
        right = verdict(question, answer)
        mark = {True: (" ✓", "green"), False: (" ✗", "red"), None: ("", "")}[right]
        style = "bold cyan" if number == 0 else ""
        bar = _bar(share, "cyan" if number == 0 else "blue")
        made.add_row(Text.assemble((printable(answer), style), mark), f"{share:.1%}", bar, str(lines[answer]))
    if (rest := 1.0 - math.fsum(shares.values())) > 5e-4:
        missing = posterior.attempts - sum(lines.values())
        name = Text("(no answer)" if missing else "(elsewhere)", style="dim")
        made.add_row(name, f"{rest:.1%}", _bar(rest, "dim"), str(missing) if missing else "")
    return made


def _bar(share: float, style: str) -> Text:
    halves = round(share * BAR_WIDTH * 2)
    return Text("━" * (halves // 2) + "╸" * (halves % 2), style=style)


def _line_title(posterior: Posterior) -> str:
    line = posterior.best_line
    if line is None or line.thought is None:
        return "its heaviest line"
    log_prob = math.fsum(part.log_prob for part in line.thought.line())
    return f"its heaviest line (log-probability {log_prob:.2f})"


def _shortened(text: str) -> str:
    """``text`` without the middle of more lines than anybody reads in a terminal."""
    lines = text.split("\n")
    if len(lines) <= 2 * SHOWN_LINES + 1:
        return text
    left = f"... {len(lines) - 2 * SHOWN_LINES:,} more lines (--json and --tree have them all) ..."
    return "\n".join([*lines[:SHOWN_LINES], left, *lines[-SHOWN_LINES:]])


def _speed(posterior: Posterior) -> str:
    bill = posterior.cost
    return f", {bill.tokens / bill.seconds:,.0f} tokens/s" if bill.seconds > 0 and bill.tokens else ""
