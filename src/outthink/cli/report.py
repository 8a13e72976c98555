"""How a posterior is told in a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from outthink.cli.console import printable, table

if TYPE_CHECKING:
    from outthink.core.posterior import Posterior
    from outthink.core.question import Question

BAR_WIDTH = 28
SHOWN_ANSWERS = 8
SHOWN_LINES = 20


def verdict(question: Question, answer: str | None) -> bool | None:
    """Whether ``answer`` is right, by the question's exact checker; None where nobody knows."""
    return None if answer is None or question.check is None else bool(question.check(answer))


def confidence_words(posterior: Posterior) -> str:
    """What the confidence of ``posterior`` is a share of, in words."""
    if posterior.best is None:
        return "no line reached an answer"
    agreeing = sum(c.answer == posterior.best for c in posterior.candidates)
    equal = len({c.log_weight for c in posterior.candidates}) == 1
    match posterior.method:
        case "greedy":
            return "the probability that the model gives its own greedy line"
        case "best-of-n":
            return "the share of the best line's score among the best lines of all answers"
        case "sample-until-verified" if posterior.stopped == "verified":
            return f"the verifier accepted it, after {_count(posterior.attempts, 'line')}"
        case "probability-vote":
            return f"its share of the weighted votes; {_agreement(agreeing, posterior.attempts)}"
        case _ if equal and posterior.attempts:
            return _agreement(agreeing, posterior.attempts)
        case _:
            return f"its share of the weight of {_count(posterior.attempts, 'line')}"


def _agreement(agreeing: int, attempts: int) -> str:
    if attempts == 1:
        return "the only line reaches it"
    return f"{agreeing} of {attempts} lines {'reaches' if agreeing == 1 else 'reach'} it"


def stop_words(posterior: Posterior, interrupted: bool = False) -> str | None:
    """Why the work ended, where that is worth telling."""
    if interrupted:
        return "cut short by ctrl-C: this is the best so far"
    known = {
        "finished": None,
        "verified": None,  # its confidence says so
        "budget": "the budget ran out: this is the best so far",
        "nothing verified": "the verifier accepted no line: this is what most of them reach",
    }
    return known.get(posterior.stopped, posterior.stopped)


def print_report(console: Console, posterior: Posterior, question: Question, interrupted: bool = False) -> None:
    """Best answer, confidence, the law over answers, the winning line and the bill."""
    console.print(_headline(posterior, verdict(question, posterior.best)))
    if posterior.best is not None:
        console.print(Text(f"confidence {posterior.confidence:.3g}: {confidence_words(posterior)}"))
    if (stopped := stop_words(posterior, interrupted)) is not None:
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
