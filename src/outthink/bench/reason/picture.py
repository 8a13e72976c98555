"""The pictures of a result, drawn from its JSON alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outthink.bench.reason.summary import ORACLES, OVERALL, frontier

WHAT = "accuracy of strategies at equal budgets"
AXES = {
    "tokens": "tokens a problem (prompt and all branches)",
    "flops": "FLOPs a problem",
    "seconds": "seconds a problem",
}
MARKERS = "os^Dv<>pPX*hd8"
Curve = tuple[str, str | None]


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """``out`` (.png): accuracy against what was spent, a panel for each model; beside it, small multiples by family and
    by difficulty, where there are several. Returns the files.
    """
    written = [_overall(result, out.with_suffix(".png"))]
    for kind, name in (("family", "families"), ("difficulty", "difficulties"), ("suite", "suites")):
        scopes = list(dict.fromkeys(p["scope"] for p in result["points"] if p["scope"].startswith(f"{kind}:")))
        if len(scopes) > 1:
            written += [
                _multiples(result, model, scopes, _beside(out, name, model if len(result["models"]) > 1 else None))
                for model in result["models"]
            ]
    return written


def cost_axis(result: dict[str, Any]) -> str:
    """What is on the axis of costs: the unit of the budgets; FLOPs where models of several sizes share it."""
    return "flops" if len(result["models"]) > 1 and result["unit"] == "tokens" else result["unit"]


def label_of(curve: Curve) -> str:
    """A strategy with its verifier in words."""
    strategy, verifier = curve
    return strategy if verifier is None else f"{strategy} ({verifier})"


class Styles:
    """One colour and marker for each curve, the same in every panel; dashed where the verifier knows the truth."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        from matplotlib import colormaps

        colours = [*colormaps["tab10"].colors, *colormaps["Dark2"].colors]  # type: ignore[attr-defined]
        strategies = list(dict.fromkeys(strategy for strategy, _ in curves))
        self._number = {strategy: i for i, strategy in enumerate(strategies)}
        self._colours = colours

    def __call__(self, curve: Curve) -> dict[str, Any]:
        number = self._number[curve[0]]
        line = "--" if curve[1] in ORACLES else "-"
        marker = MARKERS[(number + number // len(self._colours)) % len(MARKERS)]
        return {"color": self._colours[number % len(self._colours)], "marker": marker, "linestyle": line}


def _curves(points: Sequence[dict[str, Any]]) -> list[Curve]:
    return list(dict.fromkeys((point["strategy"], point["verifier"]) for point in points))


def _overall(result: dict[str, Any], path: Path) -> Path:
    plt = pyplot()
    points = [point for point in result["points"] if point["scope"] == OVERALL]
    styles, models = Styles(_curves(points)), list(result["models"])
    rows = len(_curves(points))
    size = (1.5 + 5.5 * len(models) + 2.6, max(5.2, 1.2 + 0.21 * rows))
    figure, axes = plt.subplots(1, len(models), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, model in zip(axes[0], models, strict=True):
        _panel(axis, result, [p for p in points if p["model"] == model], styles, bars=True)
        _mark_frontier(axis, result, [p for p in points if p["model"] == model])
        axis.set_title(f"{model}, n = {_count(points, model)} problems", fontsize=10)
        axis.set_xlabel(AXES[cost_axis(result)])
    axes[0][0].set_ylabel("accuracy (95% intervals)")
    _legend(figure, axes[0], rows)
    figure.suptitle(_title(result), fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _multiples(result: dict[str, Any], model: str, scopes: Sequence[str], path: Path) -> Path:
    plt = pyplot()
    points = [point for point in result["points"] if point["model"] == model]
    styles, rows = Styles(_curves(points)), math.ceil(len(scopes) / 5)
    columns = math.ceil(len(scopes) / rows)
    size = (2.6 + 2.7 * columns, max(1.0 + 2.5 * rows, 1.2 + 0.2 * len(_curves(points))))
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(scopes) :]:
        axis.set_visible(False)
    for number, (axis, scope) in enumerate(zip(axes.flat, scopes, strict=False)):
        own = [point for point in points if point["scope"] == scope]
        _panel(axis, result, own, styles, bars=False)
        _mark_frontier(axis, result, own)
        axis.tick_params(labelbottom=number + columns >= len(scopes))  # where no panel is below
        axis.set_title(f"{scope.partition(':')[2]}, n = {_count(own, model)}", fontsize=9)
    figure.supxlabel(AXES[cost_axis(result)], fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    _legend(figure, axes.flat, len(_curves(points)))
    widest = max(p["accuracy"]["high"] - p["accuracy"]["low"] for p in points if p["scope"] in scopes) / 2
    note = f"95% intervals reach up to ±{widest:.0%} and are left out; they are in the JSON"
    figure.suptitle(f"{model}: {_title(result)}\n{note}", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _panel(axis: Any, result: dict[str, Any], points: Sequence[dict[str, Any]], styles: Styles, *, bars: bool) -> None:
    key, curves = cost_axis(result), _curves(points)
    for number, curve in enumerate(curves):
        own = sorted((p for p in points if (p["strategy"], p["verifier"]) == curve), key=lambda p: p[key])
        costs, values = [p[key] for p in own], [p["accuracy"]["value"] for p in own]
        axis.plot(costs, values, ms=4.5, lw=1.4, label=label_of(curve), zorder=3, **styles(curve))
        if bars:
            shift = 1.006 ** (number - len(curves) / 2)  # so that bars at equal cost can be told apart
            below = [p["accuracy"]["value"] - p["accuracy"]["low"] for p in own]
            above = [p["accuracy"]["high"] - p["accuracy"]["value"] for p in own]
            colour = styles(curve)["color"]
            shifted = [cost * shift for cost in costs]
            axis.errorbar(shifted, values, yerr=[below, above], fmt="none", ecolor=colour, alpha=0.3, lw=0.8, zorder=2)
    axis.set_ylim(-0.02, 1.03)
    if any(point[key] > 0 for point in points):
        axis.set_xscale("log")
        round_ticks(axis.xaxis)
    axis.grid(alpha=0.25)


def round_ticks(axis: Any) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, with k, M, G for thousands, millions, billions."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def _mark_frontier(axis: Any, result: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
    """A broad grey line through the points that none beats at no more cost, apart for verifiers that know the truth."""
    for truth in (False, True):
        own = [p for p in points if (p["verifier"] in ORACLES) == truth]
        pairs = [(p[cost_axis(result)], p["accuracy"]["value"]) for p in own]
        best = [pairs[i] for i in frontier(pairs)]
        if best:
            label = "frontier" + (", verifiers that know the truth" if truth else "")
            x, y = zip(*best, strict=True)
            axis.plot(x, y, color="0.55" if not truth else "0.8", lw=6, alpha=0.45, zorder=1, label=label)


def _legend(figure: Any, axes: Any, rows: int) -> None:
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    size = 8 if rows < 24 else 7
    figure.legend(list(found.values()), list(found), loc="outside right center", fontsize=size, frameon=False)


def _title(result: dict[str, Any]) -> str:
    config = result["config"]
    hard = ", ".join(f"{d:g}" for d in config["difficulties"]) or "all"
    cut = "" if result["complete"] else "; an unfinished run"
    suites = ", ".join(config["suites"])
    return f"fresh problems of {suites}, difficulty {hard}; temperature {config['temperature']:g}{cut}"


def _count(points: Sequence[dict[str, Any]], model: str) -> int:
    return next((p["accuracy"]["n"] for p in points if p["model"] == model), 0)


def _beside(out: Path, name: str, model: str | None) -> Path:
    return out.with_name("-".join([out.stem, name, *([model] if model else [])]).replace("/", "_") + ".png")


def pyplot() -> Any:
    """Matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
