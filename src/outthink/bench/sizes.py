"""Models of several sizes side by side, from their coverage results: who beats whom, and where thinking longer helps.

A family at a difficulty is *in the band* of a model where greedy accuracy is 30 to 70% and coverage at 64 samples is at
least 20 points higher: there, spending more on a problem has something to gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from outthink.bench.coverage_report import INTERVALS, interval, table
from outthink.bench.panels import bar, colour, dress, panels, save
from outthink.core.errors import UserError
from outthink.core.estimate import Estimate, paired_difference

Json = dict[str, Any]
Place = tuple[str, float]

BAND = (0.3, 0.7)
WANTED_GAIN = 0.2


def in_band(cell: Json) -> bool:
    """Whether a cell of a coverage result is in the band, by its point estimates."""
    return BAND[0] <= cell["greedy"]["value"] <= BAND[1] and cell["gain"]["value"] >= WANTED_GAIN


def bands(cells: Sequence[Json]) -> dict[str, list[float]]:
    """For each family the difficulties at which it is in the band, perhaps none."""
    return {
        family: [cell["difficulty"] for cell in cells if cell["family"] == family and in_band(cell)]
        for family in dict.fromkeys(cell["family"] for cell in cells)
    }


def compare(results: Mapping[str, Json]) -> Json:
    """The comparison of coverage ``results`` by label, smallest model first, as plain JSON values.

    ``rows``: for each family and difficulty that all results have, greedy accuracy, gain and band of each, and
    ``steps``, greedy accuracy of each model but the first minus that of the one before on the same problems;
    ``overall``: these steps over all problems together. Raises UserError where the results share too little for that.
    """
    by_place = [{(cell["family"], cell["difficulty"]): cell for cell in r["cells"]} for r in results.values()]
    places = sorted(set.intersection(*map(set, by_place)))
    if not places:
        raise UserError("The results have no family and difficulty in common: measure the same ones.")
    rows = []
    for place in places:
        cells = [cells[place] for cells in by_place]
        figures = [{k: c[k] for k in ("n", "greedy", "gain_at", "gain")} | {"in_band": in_band(c)} for c in cells]
        steps = [paired_difference(*_pairs(smaller, larger)).to_json() for smaller, larger in pairwise(cells)]
        rows.append({"family": place[0], "difficulty": place[1], "models": figures, "steps": steps})
    return {
        "what": "sizes compared",
        "labels": list(results),
        "models": [result["models"][0] for result in results.values()],
        "overall": [_overall(smaller, larger, places).to_json() for smaller, larger in pairwise(by_place)],
        "bands": [bands(result["cells"]) for result in results.values()],
        "rows": rows,
    }


def markdown(compared: Json) -> str:
    """A row for each family and difficulty, then what lies in the band."""
    labels, gain_at = compared["labels"], compared["rows"][0]["models"][0]["gain_at"]
    head = ["family", "difficulty", *(f"greedy {label}" for label in labels)]
    head += [f"{larger} minus {smaller}" for smaller, larger in pairwise(labels)]
    head += [f"coverage at {gain_at} minus greedy, {label}" for label in labels]
    rows = [head, ["---"] * len(head)]
    for row in compared["rows"]:
        gains = [interval(f["gain"], "+.2f") + (" *" if f["in_band"] else "") for f in row["models"]]
        steps = [interval(step, "+.2f") for step in row["steps"]]
        rows.append([row["family"], f"{row['difficulty']:g}", *(interval(f["greedy"]) for f in row["models"])])
        rows[-1] += [*steps, *gains]
    lines = [table(rows)]
    for (smaller, larger), step in zip(pairwise(labels), compared["overall"], strict=True):
        lines.append(f"Over all {step['n']:,} problems together, {larger} minus {smaller}: {interval(step, '+.3f')}.\n")
    for label, found in zip(labels, compared["bands"], strict=True):
        inside = [f"{family} ({', '.join(f'{d:g}' for d in at)})" for family, at in found.items() if at]
        lines.append(
            f"{label}: {len(inside)} of {len(found)} families are in the band at some difficulty (greedy {BAND[0]:.0%} "
            f"to {BAND[1]:.0%} and coverage at {gain_at} at least {100 * WANTED_GAIN:.0f} points higher, marked *): "
            f"{', '.join(inside) or 'none'}.\n"
        )
    return "\n".join([*lines, INTERVALS + "\n"])


def draw(results: Mapping[str, Json], path: Path) -> None:
    """One panel a family: greedy accuracy against difficulty for each model, and coverage at 64 samples dashed."""
    names = list(dict.fromkeys(cell["family"] for result in results.values() for cell in result["cells"]))
    figure, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        axis.axhspan(*BAND, color="0.93", zorder=0)
        for index, (label, result) in enumerate(results.items()):
            cells = sorted((c for c in result["cells"] if c["family"] == name), key=lambda c: c["difficulty"])
            shade, at = colour(index, len(results)), [cell["difficulty"] for cell in cells]
            axis.plot(at, [cell["greedy"]["value"] for cell in cells], color=shade, lw=1.8, label=label)
            covered = [cell["coverage"][str(cell["gain_at"])]["value"] for cell in cells]
            axis.plot(at, covered, color=shade, lw=1.2, ls="--")
            for cell in cells:
                bar(axis, cell["difficulty"] + 0.006 * (index - (len(results) - 1) / 2), cell["greedy"], shade)
        dress(axis, name)
    for axis in axes[-5:]:
        axis.set_xlabel("difficulty", fontsize=9)
    axes[0].legend(fontsize=8, loc="lower left")
    gain_at = next(iter(results.values()))["cells"][0]["gain_at"]
    figure.suptitle(
        f"greedy accuracy by difficulty (solid, 95% intervals), and coverage by {gain_at} samples (dashed); grey: "
        f"greedy {BAND[0]:.0%} to {BAND[1]:.0%}",
        fontsize=11,
    )
    save(figure, path)


def _overall(smaller: Mapping[Place, Json], larger: Mapping[Place, Json], places: Sequence[Place]) -> Estimate:
    pairs = [_pairs(smaller[place], larger[place]) for place in places]
    return paired_difference([a for ours, _ in pairs for a in ours], [b for _, theirs in pairs for b in theirs])


def _pairs(smaller: Json, larger: Json) -> tuple[list[bool], list[bool]]:
    """Whether ``larger`` and ``smaller`` were right greedily, on the problems that both were asked."""
    known = {key: right for key, right, _ in smaller["problems"]}
    pairs = [(bool(right), bool(known[key])) for key, right, _ in larger["problems"] if key in known]
    if not pairs:
        raise UserError(
            f"The results share no problem of '{larger['family']}' at {larger['difficulty']:g}: use the same --seed."
        )
    return [a for a, _ in pairs], [b for _, b in pairs]
