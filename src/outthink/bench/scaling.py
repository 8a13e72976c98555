"""Accuracy against the number of samples, for each strategy, on fresh problems."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from outthink.bench.replay import Recorded, ReplayLM
from outthink.core.budget import Ledger
from outthink.core.estimate import Estimate, mean, paired_difference, paired_mean_difference, proportion
from outthink.core.sampling import Sampling
from outthink.lm.model import Model
from outthink.lm.protocol import Branch
from outthink.reason.solve import ask, think
from outthink.tasks.problem import Problem

Progress = Callable[[int, int, str], None]

STRATEGIES: tuple[tuple[str, str | None], ...] = (
    ("greedy", None),
    ("majority-vote", None),
    ("probability-vote", None),
    ("best-of-n", "likelihood"),
    ("best-of-n", "exact"),
    ("sample-until-verified", "exact"),
)


@dataclass(frozen=True)
class ScalingConfig:
    """``num_problems`` of the test split of ``family`` at ``difficulty`` in 0..1; ``counts`` are the sample sizes N,
    each a divisor of the largest; ``concurrency`` problems are sampled at once.
    """

    family: str = "arithmetic"
    difficulty: float = 0.5
    num_problems: int = 200
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    temperature: float = 1.0
    seed: int = 0
    concurrency: int = 4


@dataclass(frozen=True)
class Record:
    """All that was sampled for one problem."""

    problem: Problem
    prompt_tokens: int
    greedy: Recorded
    lines: tuple[Recorded, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.problem.seed,
            "prompt": self.problem.prompt,
            "answer": self.problem.answer,
            "prompt_tokens": self.prompt_tokens,
            "greedy": self.greedy.to_json(),
            "lines": [line.to_json() for line in self.lines],
        }


@dataclass(frozen=True)
class Point:
    """One strategy at one N: accuracy over problems, accuracy minus greedy's on the same ones (paired), and what this
    run spent a problem in tokens, which is counted and not estimated.
    """

    strategy: str
    verifier: str | None
    n: int
    accuracy: Estimate
    tokens: float
    gain: Estimate


@dataclass
class Outcomes:
    """Per-problem results of one strategy at one N, averaged over the disjoint blocks of N lines in the pool."""

    right: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


async def sample_pool(
    model: Model, problems: Sequence[Problem], config: ScalingConfig, progress: Progress
) -> list[Record]:
    """Draw a greedy line and max(counts) sampled lines for every problem."""
    gate, finished = asyncio.Semaphore(config.concurrency), 0
    chat = model.loaded.tokenizer.chat_template is not None

    async def one(problem: Problem) -> Record:
        nonlocal finished
        async with gate:
            lm = model.session(sampling=Sampling(temperature=config.temperature, seed=config.seed))
            async with await lm.root(ask(problem, chat=chat).prompt) as root:
                lines = await root.extend(max(config.counts))  # first, so that line k is the root's k-th child
                [greedy] = await root.extend(1, sampling=replace(lm.sampling, temperature=0.0))
                prompt_tokens = lm.ledger.bill.prefilled + lm.ledger.bill.cached
                for line in (greedy, *lines):
                    await line.close()
        finished += 1
        progress(finished, len(problems), "problems sampled")
        return Record(problem, prompt_tokens, _recorded(greedy), tuple(map(_recorded, lines)))

    return list(await asyncio.gather(*map(one, problems)))


async def replay(records: Iterable[Record], strategy: str, verifier: str | None, n: int) -> Outcomes:
    """Run ``strategy`` on every disjoint block of ``n`` recorded lines of every problem."""
    outcomes = Outcomes()
    for record in records:
        blocks = [record.lines[i : i + n] for i in range(0, len(record.lines), n)]
        right, tokens = 0, 0
        for block in blocks:
            lm = ReplayLM(record.prompt_tokens, block, record.greedy, Ledger())
            options = {} if strategy == "greedy" else {"n": n}
            posterior = await think(ask(record.problem), lm, strategy, verifier, **options)
            right += posterior.best is not None and record.problem.check(posterior.best)
            tokens += posterior.cost.tokens
        outcomes.right.append(right / len(blocks))
        outcomes.tokens.append(tokens / len(blocks))
    return outcomes


async def measure(records: Sequence[Record], counts: Sequence[int], progress: Progress) -> list[Point]:
    """All strategies at all sample sizes, each against greedy on the same problems."""
    greedy = (await replay(records, "greedy", None, max(counts))).right
    jobs = [(s, v, n) for s, v in STRATEGIES for n in (counts if s != "greedy" else counts[:1])]
    points = []
    for done, (strategy, verifier, n) in enumerate(jobs):
        outcomes = await replay(records, strategy, verifier, n)
        # One block a problem: each outcome is right or wrong by design, else a share of the blocks.
        accuracy, gain = _estimates(outcomes.right, greedy, whole=strategy == "greedy" or n == max(counts))
        points.append(Point(strategy, verifier, n, accuracy, sum(outcomes.tokens) / len(records), gain))
        progress(done + 1, len(jobs), "strategies replayed")
    return points


def report(model: Model, config: ScalingConfig, points: Sequence[Point], command: str) -> dict[str, Any]:
    """The result as plain JSON values: what was run, against what, and every point."""
    import torch

    return {
        "what": "accuracy against number of samples",
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "model": {"name": model.name, "dtype": model.loaded.config.dtype, "backend": model.engine.backend.name},
        "config": asdict(config),
        "points": [
            {**asdict(point), "accuracy": point.accuracy.to_json(), "gain": point.gain.to_json()} for point in points
        ],
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """The curve as a picture: accuracy with its intervals against N, and against tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True, layout="constrained")
    for index, (strategy, verifier) in enumerate(STRATEGIES):
        points = [p for p in result["points"] if (p["strategy"], p["verifier"]) == (strategy, verifier)]
        label = strategy + (f" ({verifier})" if verifier else "")
        for axis, key in zip(axes, ("n", "tokens"), strict=True):
            values = [p["accuracy"]["value"] for p in points]
            below = [p["accuracy"]["value"] - p["accuracy"]["low"] for p in points]
            above = [p["accuracy"]["high"] - p["accuracy"]["value"] for p in points]
            shift = 1.02 ** (index - 2.5)  # so that bars at the same N can be told apart
            axis.errorbar(
                [p[key] * shift for p in points], values, yerr=[below, above], marker="o", ms=4, capsize=2, label=label
            )
    config = result["config"]
    axes[0].set(xscale="log", xlabel="samples N", ylabel="accuracy", ylim=(0, 1))
    axes[1].set(xscale="log", xlabel="tokens per problem (prompt and all branches)")
    axes[0].set_xticks(config["counts"], [str(n) for n in config["counts"]], minor=False)
    axes[0].minorticks_off()
    axes[0].legend(fontsize=8, loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.25)
    figure.suptitle(
        f"{result['model']['name']} on {config['num_problems']} fresh problems: {config['family']}, "
        f"difficulty {config['difficulty']}, temperature {config['temperature']}; 95% intervals"
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def run(model: Model, config: ScalingConfig, out: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Sample, replay, write ``out`` (.json), its records (.records.jsonl.gz) and its curve (.png); the result."""
    from outthink.tasks.suites import draw_problems

    problems = draw_problems(
        config.family,
        config.difficulty,
        "test",
        config.num_problems,
        config.seed,
        lambda found: progress(found, config.num_problems, "drawing problems"),
    )
    records = asyncio.run(sample_pool(model, problems, config, progress))
    points = asyncio.run(measure(records, config.counts, progress))
    result = report(model, config, points, " ".join(["outthink", *sys.argv[1:]]))
    out.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(out.with_suffix(".records.jsonl.gz"), "wt") as file:
        file.writelines(json.dumps(record.to_json()) + "\n" for record in records)
    out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, out.with_suffix(".png"))
    return result


def _estimates(right: Sequence[float], greedy: Sequence[float], *, whole: bool) -> tuple[Estimate, Estimate]:
    """Accuracy, and accuracy minus greedy's on the same problems; exact where outcomes are right or wrong."""
    if whole:
        outcomes = [value == 1.0 for value in right]
        return proportion(outcomes), paired_difference(outcomes, [value == 1.0 for value in greedy])
    return mean(right, (0.0, 1.0)), paired_mean_difference(right, greedy, (0.0, 1.0))


def _recorded(line: Branch) -> Recorded:
    return Recorded(line.text, len(line.tokens), sum(line.log_probs), line.finish or "")
