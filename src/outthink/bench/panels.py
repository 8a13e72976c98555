"""Small multiples in one style: a panel a family, a colour a curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Json = dict[str, Any]


def panels(count: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure and its ``count`` axes, up to five in a row, all with the same vertical axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(count, 5)
    rows = -(-count // columns)
    size = (max(5.0, 3.1 * columns), 0.8 + 2.7 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, layout="constrained", squeeze=False)
    made = list(axes.flat)
    for unused in made[count:]:
        unused.set_visible(False)
    return figure, made[:count]


def colour(index: int, count: int) -> Any:
    """The colour of one of ``count`` curves that have an order."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.05 + 0.75 * index / max(1, count - 1))


def bar(axis: Any, x: float, estimate: Json, shade: Any) -> None:
    """An estimate as a point with its interval."""
    value = estimate["value"]
    reach = [[value - estimate["low"]], [estimate["high"] - value]]
    axis.errorbar([x], [value], yerr=reach, marker="o", ms=4, capsize=2, lw=1, color=shade)


def dress(axis: Any, title: str) -> None:
    """Title, grid and a vertical axis from 0 to 1."""
    axis.set_title(title, fontsize=10)
    axis.set_ylim(-0.03, 1.03)
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)


def save(figure: Any, path: Path) -> None:
    """Write the picture, and forget it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
