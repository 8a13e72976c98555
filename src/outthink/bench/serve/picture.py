"""The loads as a picture: throughput and latencies against streams, memory against time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    (("tokens_per_s",), "tokens per second"),
    (("ttft_p50_s", "ttft_p99_s"), "seconds to the first token (p50, dashed p99)"),
    (("itl_p50_s", "itl_p99_s"), "seconds between tokens (p50, dashed p99)"),
)


def draw(result: dict[str, Any], path: Path) -> None:
    """Medians with the range of the rounds, if there were any, and resident memory; as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = PANELS if result["points"] else ()
    figure, grid = plt.subplots(
        1, len(panels) + 1, figsize=(max(4.5 * (len(panels) + 1), 8.0), 3.8), layout="constrained", squeeze=False
    )
    axes = grid[0]
    colours = plt.get_cmap("tab10").colors  # pyright: ignore[reportAttributeAccessIssue]
    servers = list(dict.fromkeys(point["server"] for point in result["points"]))
    for axis, (names, title) in zip(axes, panels, strict=False):
        for index, server in enumerate(servers):
            for name, style in zip(names, ("-", "--"), strict=False):
                _curve(axis, result["points"], server, name, style, colours[index])
        axis.set(xscale="log", xlabel="streams at once", title=title)
        if axis.has_data():
            axis.set_yscale("log", nonpositive="clip")
        axis.set_xticks(result["config"]["streams"], [str(streams) for streams in result["config"]["streams"]])
        axis.minorticks_off()
    held = {**result["memory"], **({"soak": result["soak"]["memory"]} if result["soak"] else {})}
    for index, (name, memory) in enumerate(held.items()):
        at, bytes_held = zip(*memory["readings"], strict=True)
        axes[-1].plot([t / 60 for t in at], [b / 1e6 for b in bytes_held], label=name, color=colours[index])
    axes[-1].set(xlabel="minutes", title="resident memory, MB", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    machine = result["machine"]
    note = " (machine busy: not to be relied on)" if machine["busy"] else ""
    figure.suptitle(f"{result['model']} on {machine['cpu']}, {machine['threads']} threads{note}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curve(axis: Any, points: list[dict[str, Any]], server: str, name: str, style: str, colour: Any) -> None:
    mine = [point for point in points if point["server"] == server and point[name]]
    if not mine:
        return
    middles = [point[name] for point in mine]
    below = [point[name] - min(point["rounds"][name]) for point in mine]
    above = [max(point["rounds"][name]) - point[name] for point in mine]
    label = server if style == "-" else None
    axis.errorbar(
        [point["streams"] for point in mine], middles, yerr=[below, above], marker="o", ms=4, capsize=2,
        linestyle=style, color=colour, label=label,
    )  # fmt: skip
