"""The tables of ``outthink bench reason`` and ``small-vs-large``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from outthink.cli.console import err, out, table

INTERRUPTED = 130


def print_points(result: dict[str, Any]) -> None:
    """The table of all cells over all problems."""
    made = table(
        "strategy", "budget", "right %", "95% interval", "against the vote", "tokens", "GFLOPs", "s", "calls", "pages"
    )
    for column in made.columns[1:]:
        column.justify = "right"
    several = len(result["models"]) > 1
    last = None
    for point in (p for p in result["points"] if p["scope"] == "overall"):
        name = point["strategy"] + (f" ({point['verifier']})" if point["verifier"] else "")
        name = f"{point['model']}: {name}" if several else name
        accuracy, gain = point["accuracy"], point["gain"]
        over = point["most_over"]
        made.add_row(
            "" if name == last else name,
            point["budget"].removesuffix(" tokens"),
            f"{100 * accuracy['value']:.1f}",
            _interval(accuracy),
            "" if gain is None else _signed(gain),
            Text(f"{point['tokens']:,.0f}", style="red" if over and result["unit"] == "tokens" else ""),
            f"{point['flops'] / 1e9:.3g}",
            f"{point['seconds']:.2f}",
            f"{point['verifier_calls']:,.0f}",
            f"{point['most_pages']:,}",
        )
        last = name
    out().print(made)
    worst = max(p["most_over"] for p in result["points"])
    told = (
        "no bill exceeded its budget"
        if not worst
        else f"the worst bill exceeded its budget by {worst:.3g} {result['unit']}"
    )
    n = result["points"][0]["accuracy"]["n"]
    out().print(
        Text(f"n = {n} problems in every cell; {told}. Costs are means a problem, pages the most of any.", "dim")
    )


def print_best(result: dict[str, Any]) -> None:
    """The best strategy at each budget, and those that cannot be told from it."""
    made = table("at", "highest accuracy", f"the truly best is among these, with probability {1 - 0.05:.0%}")
    several = len(result["models"]) > 1
    for best in (b for b in result["best"] if b["scope"] == "overall"):
        names = [_name(one) for one in best["among"]]
        where = (f"{best['model']}, " if several else "") + best["budget"]
        told = ", ".join(names) if len(names) < best["num_compared"] else f"all {len(names)}: n is too small to tell"
        made.add_row(where + (" (truth known)" if best["truth"] else ""), _name(best["leader"]), told)
    out().print(made)


def print_rows(result: dict[str, Any]) -> None:
    """The table of `small_vs_large`."""
    made = table("difficulty", "model", "strategy", "FLOPs", "share", "right %", "95% interval", "against large greedy")
    for column in made.columns[3:]:
        column.justify = "right"
    last = None
    for row in result["rows"]:
        where = "all" if row["difficulty"] is None else f"{row['difficulty']:g}"
        where = where if len(result["config"]["suites"]) == 1 else f"{row['suite']}, {where}"
        accuracy, gain = row["accuracy"], row["gain"]
        made.add_row(
            "" if where == last else where,
            row["model"],
            _name((row["strategy"], row["verifier"])),
            f"{row['flops']:.3g}",
            f"{row['share']:.2f}",
            f"{100 * accuracy['value']:.1f}",
            _interval(accuracy),
            "" if gain is None else _signed(gain),
        )
        last = where
    out().print(made)
    n = result["rows"][0]["accuracy"]["n"]
    told = "FLOPs are means a problem; share: of what the large model's greedy line takes"
    out().print(Text(f"n = {n} problems in every row of a difficulty; {told}.", style="dim"))


def tell_files(output: Path, complete: bool) -> None:
    """Say where the result is; raises typer.Exit with code 130 where it is not complete."""
    pictures = sorted(output.parent.glob(f"{output.stem}*.png"))
    err().print(Text(", ".join(map(str, [output, *pictures])), style="dim"), soft_wrap=True)
    if not complete:
        err().print(Text("stopped early: the same command goes on from here", style="yellow"), soft_wrap=True)
        raise typer.Exit(INTERRUPTED)


def _signed(gain: dict[str, Any]) -> str:
    value, low, high = (100 * gain[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _interval(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}"


def _name(curve: Sequence[str | None]) -> str:
    return f"{curve[0]} ({curve[1]})" if curve[1] else str(curve[0])
