"""Coverage of one model as a table for its card and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from outthink.bench.panels import bar, colour, dress, panels, save
from outthink.core.errors import UserError

Json = dict[str, Any]

SHOWN = (4, 16, 64, 256)
INTERVALS = (
    "Intervals (95%, one at a time) are over problems and hold at this sample size: exact (Clopper-Pearson) where a "
    "problem is right or wrong, by betting (Waudby-Smith and Ramdas 2024) elsewhere."
)


def read_result(path: Path) -> Json:
    """A result of ``outthink bench coverage``. Raises UserError for any other file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a result of `outthink bench coverage`: {error}.") from error
    if not (isinstance(result, dict) and result.get("what") == "greedy accuracy and coverage"):
        raise UserError(f"{path} is no result of `outthink bench coverage`; make one with that command.")
    return result


def name_of(result: Json) -> str:
    """The name of the model that was measured."""
    return result["models"][0]["name"]


def markdown(result: Json) -> str:
    """What was measured and how, and a row for each family and difficulty."""
    config = result["config"]
    samples, temperature = config["num_samples"], config["temperature"]
    counts = [k for k in SHOWN if k <= samples]
    head = ["family", "difficulty", "problems", "greedy", "one sample", *(f"coverage at {k}" for k in counts)]
    rows = [head, ["---"] * len(head)]
    for cell in result["cells"]:
        shown = [cell["greedy"], *(cell["coverage"][str(k)] for k in (1, *counts))]
        rows.append([cell["family"], f"{cell['difficulty']:g}", str(cell["n"]), *map(interval, shown)])
    told = " told in other words" if config["suite"].endswith("-functional") else ""
    return (
        f"Test problems of `{config['suite']}`{told}, none of them trained on. Coverage: at least one of so many "
        f"samples at temperature {temperature:g} is right (the unbiased estimate from {samples} samples a problem). "
        f"{INTERVALS}\n\n{table(rows)}\nMade by `{result['command']}`.\n"
    )


def draw(result: Json, path: Path) -> None:
    """One panel a family: coverage against samples with its band, greedy at the left, a colour for each difficulty."""
    cells, largest = result["cells"], result["config"]["num_samples"]
    names = list(dict.fromkeys(cell["family"] for cell in cells))
    difficulties = sorted({cell["difficulty"] for cell in cells})
    figure, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for cell in (cell for cell in cells if cell["family"] == name):
            _curve(axis, cell, difficulties)
        ticks = [k for k in (1, *SHOWN) if k <= largest]
        axis.axvline(0.75, color="0.8", lw=0.8)
        axis.set(xscale="log", xlim=(0.33, largest * 1.25))
        axis.set_xticks([0.5, *ticks], ["greedy", *map(str, ticks)])
        dress(axis, name)
    for axis in axes[-5:]:
        axis.set_xlabel("samples k", fontsize=9)
    axes[0].legend(title="difficulty", fontsize=8, title_fontsize=8, loc="lower right")
    counted = sorted({cell["n"] for cell in cells})
    problems = f"{counted[0]}" if len(counted) == 1 else f"{counted[0]} to {counted[-1]}"
    figure.suptitle(
        f"{name_of(result)}: greedy accuracy, and coverage by k samples at temperature "
        f"{result['config']['temperature']:g}; {problems} test problems a curve, 95% intervals",
        fontsize=11,
    )
    save(figure, path)


def interval(estimate: Json, form: str = ".2f") -> str:
    """``0.43 [0.38, 0.49]``."""
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the second of ``rows`` holds the dashes below the head."""
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _curve(axis: Any, cell: Json, difficulties: Sequence[float]) -> None:
    index = difficulties.index(cell["difficulty"])
    shade, ks = colour(index, len(difficulties)), sorted(map(int, cell["coverage"]))
    estimates = [cell["coverage"][str(k)] for k in ks]
    axis.plot(ks, [e["value"] for e in estimates], color=shade, lw=1.8, label=f"{cell['difficulty']:g}")
    low, high = [e["low"] for e in estimates], [e["high"] for e in estimates]
    axis.fill_between(ks, low, high, color=shade, alpha=0.15, lw=0)
    # A little apart, so that bars at the same height can be told from one another.
    bar(axis, 0.5 * 1.15 ** (index - (len(difficulties) - 1) / 2), cell["greedy"], shade)
