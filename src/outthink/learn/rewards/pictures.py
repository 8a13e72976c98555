"""Pictures of what was measured: a judged reward model, and labels against what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_judgement(result: dict[str, Any], path: Path) -> None:
    """The AUC of each family with its interval, and the calibration curves, as a picture."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    families = list(dict.fromkeys(row["family"] for row in result["auc"]))
    for shift, what in ((-0.12, "steps"), (0.12, "finished lines")):
        rows = [row for row in result["auc"] if row["what"] == what and row["auc_truth"] is not None]
        for row in rows:
            area, place = row["auc_truth"], families.index(row["family"]) + shift
            left.plot([area["low"], area["high"]], [place, place], color=_color(what), linewidth=2)
        places = [families.index(row["family"]) + shift for row in rows]
        left.plot([row["auc_truth"]["value"] for row in rows], places, "o", ms=5, color=_color(what), label=what)
    left.axvline(0.5, color="gray", linewidth=1)
    left.set(yticks=range(len(families)), yticklabels=families, xlim=(0, 1), xlabel="AUC against the oracle, 95%")
    left.invert_yaxis()
    left.legend(fontsize=8, loc="lower left")
    for name, label in (("truth", "can still be right (oracle)"), ("outcome", "this very line ended right")):
        found = result["calibration"][name]
        bins = found["bins"]
        x, y = [b["predicted"] for b in bins], [b["share"] for b in bins]
        bars = [[b["share"] - b["low"] for b in bins], [b["high"] - b["share"] for b in bins]]
        right.errorbar(x, y, yerr=bars, marker="o", ms=4, capsize=2, label=f"{label}: ECE {found['ece']:.3f}")
    right.plot([0, 1], [0, 1], color="gray", linewidth=1)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="share that is true")
    right.legend(fontsize=8, loc="upper left")
    for axis in (left, right):
        axis.grid(alpha=0.25)
    reward = result["reward"]
    figure.suptitle(f"{reward['name']} ({reward['kind']}) on {result['config']['num_problems']} fresh problems")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_comparison(result: dict[str, Any], path: Path) -> None:
    """Labels, the share of them that agree with the oracle, and their AUC, against tokens, as a picture."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for one in result["results"]:
        name = f"{one['labels']}, {one['rollouts']} rollouts, {one['lines']} lines"
        points = [point for point in one["points"] if point["labels"]]
        tokens = [point["tokens"] for point in points]
        axes[0].plot(tokens, [point["labels"] for point in points], marker="o", ms=3, label=name)
        axes[1].plot(tokens, [point["agreeing"] / point["labels"] for point in points], marker="o", ms=3, label=name)
        areas = [(point["tokens"], point["auc"]) for point in points if point["auc"] is not None]
        axes[2].plot([at for at, _ in areas], [area for _, area in areas], marker="o", ms=3, label=name)
    for axis, title in zip(axes, ("labels of steps", "share that agrees with the oracle", "AUC"), strict=True):
        axis.set(xlabel="rollout tokens", title=title)
        axis.set_ylim(bottom=0, top=None if axis is axes[0] else 1)
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8, loc="upper left")
    settings = result["settings"]
    figure.suptitle(f"labels with rollouts of {settings['model']} on {settings['suite']} up to {settings['hardest']}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _color(what: str) -> str:
    return {"steps": "tab:blue", "finished lines": "tab:orange"}[what]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
