"""From rates to medians, ratios and a JSON result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from outthink.bench.engine.machine import is_busy
from outthink.bench.engine.profile import report_profile
from outthink.bench.engine.rounds import EngineConfig, Key, Measured
from outthink.bench.engine.runners import OURS
from outthink.bench.engine.startup import GOAL_S
from outthink.bench.engine.weights import Subject
from outthink.bench.engine.workloads import goal, workloads

BANDWIDTH_GOAL = 0.8
OVERHEAD_GOALS = {64: 0.10, 1: 0.25}  # by the number of branches


@dataclass(frozen=True)
class Comparison:
    """Our median rate against that of the best peer at the same bits; ``low`` and ``high`` of the rounds' ratios."""

    model: str
    workload: str
    bits: str
    rate: float
    peer: str | None
    peer_rate: float | None
    ratio: float | None
    low: float | None
    high: float | None
    goal: float

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches the goal; None without a peer."""
        return None if self.ratio is None else self.ratio >= self.goal


def compare(rates: dict[Key, list[float]], subject_name: str, small: bool, config: EngineConfig) -> list[Comparison]:
    """A comparison for each workload and bits that we have a rate of; the best peer has the highest median."""
    found = []
    for job in workloads(small, config.quick):
        for bits in config.bits:
            ours = rates.get((subject_name, job.name, bits, OURS))
            if not ours:
                continue
            peers = {
                runner: values
                for (model, workload, width, runner), values in rates.items()
                if (model, workload, width) == (subject_name, job.name, bits) and runner != OURS
            }
            best = max(peers, key=lambda runner: median(peers[runner]), default=None)
            theirs = None if best is None else peers[best]
            each = [] if theirs is None else [a / b for a, b in zip(ours, theirs, strict=False)]
            found.append(
                Comparison(
                    subject_name,
                    job.name,
                    bits,
                    median(ours),
                    best,
                    None if theirs is None else median(theirs),
                    None if theirs is None else median(ours) / median(theirs),
                    min(each, default=None),
                    max(each, default=None),
                    goal(job, small),
                )
            )
    return found


def bandwidth_share(measured: Measured, subject_name: str) -> dict[str, Any] | None:
    """The bytes of weights that our int8 decode of one sequence reads per second, as a share of what can be read."""
    rates = measured.rates.get((subject_name, "decode 1", "int8", OURS))
    told = measured.told.get(f"{subject_name}, {OURS} int8", {})
    if not rates or not measured.limits or "weight_bytes" not in told:
        return None
    limit, read = median(each.read_bytes_per_s for each in measured.limits), median(rates) * told["weight_bytes"]
    share = read / limit
    return {
        "model": subject_name,
        "weight_bytes": told["weight_bytes"],
        "bytes_per_s": read,
        "limit_bytes_per_s": limit,
        "share": share,
        "goal": BANDWIDTH_GOAL,
        "met": share >= BANDWIDTH_GOAL,
    }


def report(
    measured: Measured,
    subjects: Sequence[Subject],
    config: EngineConfig,
    machine: dict[str, Any],
    startup: Sequence[tuple[float, float]],
    command: str,
) -> dict[str, Any]:
    """The result as plain JSON values."""
    comparisons = [
        {**asdict(found), "met": found.met}
        for subject in subjects
        for found in compare(measured.rates, subject.name, subject.small, config)
    ]
    shares = [bandwidth_share(measured, subject.name) for subject in subjects if not subject.small]
    return {
        "what": "our engine beside others",
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine, "busy": is_busy(machine), "limits": [asdict(limits) for limits in measured.limits]},
        "config": asdict(config),
        "rounds": measured.rounds,
        "interrupted": measured.interrupted,
        "comparisons": comparisons,
        "bandwidth": [share for share in shares if share is not None],
        "profile": [report_profile(profile, measured.limits) for profile in measured.profiles.values()],
        "agreement": measured.agreement,
        "overhead": [
            {**each, "share": median(each["shares"]), "goal": OVERHEAD_GOALS[each["branches"]]}
            for each in measured.overhead
        ],
        "startup": _startup(startup),
        "rates": [
            {
                "model": model,
                "workload": workload,
                "bits": bits,
                "runner": runner,
                "median": median(rates),
                "rates": rates,
            }
            for (model, workload, bits, runner), rates in measured.rates.items()
        ],
        "missing": measured.missing,
        "runners": measured.told,
    }


def _startup(runs: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    if not runs:
        return None
    wall = median(wall for wall, _ in runs)
    return {
        "first_token_s": wall,
        "processor_s": median(computed for _, computed in runs),
        "runs": [list(each) for each in runs],
        "goal_s": GOAL_S,
        "met": wall <= GOAL_S,
    }
