"""The comparison as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outthink.bench.engine.workloads import BITS


def draw(result: dict[str, Any], path: Path) -> None:
    """Median rates of all runners, with the range of their rounds: a panel for each model and bits, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    rates = result["rates"]
    found = dict.fromkeys((rate["model"], rate["bits"]) for rate in rates)
    models = list(dict.fromkeys(model for model, _ in found))
    panels = sorted(found, key=lambda panel: (models.index(panel[0]), BITS.index(panel[1])))
    if not panels:
        return
    columns = len({bits for _, bits in panels})
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5.2 * columns, 3.6 * lines), layout="constrained", squeeze=False
    )
    runners = list(dict.fromkeys(rate["runner"] for rate in rates))
    colours = plt.get_cmap("tab10").colors  # pyright: ignore[reportAttributeAccessIssue]
    for axis, (model, bits) in zip(axes.flat, panels, strict=False):
        shown = [rate for rate in rates if (rate["model"], rate["bits"]) == (model, bits)]
        _panel(axis, shown, runners, colours)
        axis.set_title(f"{model}, {bits}", fontsize=10)
    keys = [Patch(color=colours[index], label=runner) for index, runner in enumerate(runners)]
    figure.legend(handles=keys, fontsize=8, loc="outside lower center", ncols=len(keys))
    machine = result["machine"]
    note = " (machine busy: not to be relied on)" if machine["busy"] else ""
    figure.suptitle(f"tokens per second on {machine['cpu']}, {machine['threads']} threads{note}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Any, rates: list[dict[str, Any]], runners: list[str], colours: Any) -> None:
    jobs = list(dict.fromkeys(rate["workload"] for rate in rates))
    width = 0.8 / len(runners)
    for index, runner in enumerate(runners):
        mine = [rate for rate in rates if rate["runner"] == runner]
        middles = [rate["median"] for rate in mine]
        places = [jobs.index(rate["workload"]) + (index - (len(runners) - 1) / 2) * width for rate in mine]
        below = [rate["median"] - min(rate["rates"]) for rate in mine]
        above = [max(rate["rates"]) - rate["median"] for rate in mine]
        axis.bar(places, middles, width, yerr=[below, above], capsize=2, color=colours[index])
    axis.set(yscale="log", ylabel="tokens per second")
    axis.set_xticks(range(len(jobs)), jobs, fontsize=8)
    axis.grid(axis="y", alpha=0.25)
