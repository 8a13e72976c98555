"""The picture of small models that think against a large one that does not, from the result's JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outthink.bench.reason.picture import Styles, label_of, pyplot, round_ticks

WHAT = "small models that think against a large one's greedy line, at equal FLOPs"
LARGE = {"color": "black", "marker": "*", "markersize": 13, "linestyle": "none", "zorder": 4}
Place = tuple[str, float | None]


def draw(result: dict[str, Any], path: Path) -> Path:
    """Above, accuracy against FLOPs at each difficulty; below, the difference to the large model's greedy line at its
    own FLOPs, with exact paired intervals: what lies below zero, the large model does better.
    """
    plt = pyplot()
    rows, large = result["rows"], next(iter(result["config"]["large"]))
    places = list(dict.fromkeys((row["suite"], row["difficulty"]) for row in rows))
    columns = max(2, len(places))
    figure = plt.figure(figsize=(2.4 + 2.9 * columns, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(1, 1.1))
    styles = Styles(list(dict.fromkeys(_curve(row) for row in rows if row["strategy"] != "greedy")))
    first = None
    for column, place in enumerate(places):
        axis = first = figure.add_subplot(grid[0, column], sharey=first)
        _accuracy(axis, [row for row in rows if _place(row) == place], large, styles)
        axis.set_title(f"{_told(place, places)}, n = {_count(rows, place)}", fontsize=9)
        axis.set_xlabel("FLOPs a problem", fontsize=9)
        if column == 0:
            axis.set_ylabel("accuracy (95% intervals)")
    below = figure.add_subplot(grid[1, :])
    _differences(below, rows, places, large, styles)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    cut = "" if result["complete"] else "; an unfinished run"
    suites = ", ".join(result["config"]["suites"])
    figure.suptitle(f"Thinking against one greedy line of {large}, on fresh problems of {suites}{cut}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _accuracy(axis: Any, rows: Sequence[dict[str, Any]], large: str, styles: Styles) -> None:
    for row in (row for row in rows if row["strategy"] == "greedy"):
        style = (
            LARGE if row["model"] == large else {**LARGE, "marker": "P", "markersize": 8, "markerfacecolor": "white"}
        )
        axis.errorbar([row["flops"]], [row["accuracy"]["value"]], yerr=_bars([row], "accuracy"), lw=1, **style,
                      label=f"{row['model']}, greedy")  # fmt: skip
    (reference,) = (row for row in rows if row["model"] == large and row["strategy"] == "greedy")
    axis.axvline(reference["flops"], color="0.6", lw=1, ls=":")
    for curve in dict.fromkeys(_curve(row) for row in rows if row["strategy"] != "greedy"):
        own = sorted((row for row in rows if _curve(row) == curve), key=lambda row: row["multiple"])
        flops, values = [row["flops"] for row in own], [row["accuracy"]["value"] for row in own]
        style = styles(curve)
        axis.plot(flops, values, ms=4.5, lw=1.4, label=label_of(curve), zorder=3, **style)
        axis.errorbar(flops, values, yerr=_bars(own, "accuracy"), fmt="none", ecolor=style["color"], alpha=0.3, lw=0.8)
    axis.set(xscale="log", ylim=(-0.02, 1.03))
    round_ticks(axis.xaxis)
    axis.grid(alpha=0.25)


def _differences(
    axis: Any, rows: Sequence[dict[str, Any]], places: Sequence[Place], large: str, styles: Styles
) -> None:
    curves = list(dict.fromkeys(_curve(row) for row in rows if row["strategy"] != "greedy"))
    for number, curve in enumerate(curves):
        shift = 0.7 * ((number + 0.5) / len(curves) - 0.5)
        own = [row for row in rows if _curve(row) == curve and row["multiple"] == 1.0]
        at = [places.index(_place(row)) + shift for row in own]
        style = styles(curve)
        axis.errorbar(at, [row["gain"]["value"] for row in own], yerr=_bars(own, "gain"), fmt=style["marker"],
                      color=style["color"], ms=5, lw=1.2, capsize=2)  # fmt: skip
    axis.axhline(0, color="black", lw=1)
    low, high = axis.get_ylim()
    axis.set_ylim(max(min(low, -0.05), -1.02), min(max(high, 0.05), 1.02))
    axis.axhspan(axis.get_ylim()[0], 0, color="0.93", zorder=0)
    axis.text(0.005, 0.02, f"{large}'s greedy line is better", transform=axis.transAxes, fontsize=8, color="0.35")
    axis.text(0.005, 0.95, "thinking is better", transform=axis.transAxes, fontsize=8, color="0.35")
    axis.set_xticks(range(len(places)), [_told(place, places) for place in places])
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.set_ylabel(f"accuracy less {large}'s greedy\nat equal FLOPs (paired, 95%)")
    axis.grid(alpha=0.25, axis="y")


def _curve(row: dict[str, Any]) -> tuple[str, str | None]:
    return f"{row['model']}: {row['strategy']}", row["verifier"]


def _place(row: dict[str, Any]) -> Place:
    return row["suite"], row["difficulty"]


def _told(place: Place, places: Sequence[Place]) -> str:
    suite, difficulty = place
    hard = "all difficulties" if difficulty is None else f"difficulty {difficulty:g}"
    return f"{suite}, {hard}" if len({suite for suite, _ in places}) > 1 else hard


def _count(rows: Sequence[dict[str, Any]], place: Place) -> int:
    return next(row["accuracy"]["n"] for row in rows if _place(row) == place)


def _bars(rows: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
    estimates = [row[key] for row in rows]
    return [[e["value"] - e["low"] for e in estimates], [e["high"] - e["value"] for e in estimates]]
