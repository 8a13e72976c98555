"""Where our engine's time goes, beside what the machine could do at most: why a goal is met, or is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from outthink.bench.engine.machine import Limits
from outthink.bench.engine.workloads import Bits, Workload


@dataclass
class Profile:
    """Our timed parts of one workload in all rounds: wall seconds, those of each stage of the steps, and FLOPs."""

    model: str
    job: Workload
    bits: Bits
    weight_bytes: int
    seconds: list[float] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, seconds: float, spent: dict[str, Any]) -> None:
        """Count one round; ``spent`` is what the driver answers to "spent"."""
        self.seconds.append(seconds)
        self.flops.append(spent["flops"])
        for stage, more in spent["stages"].items():
            self.stages[stage] = self.stages.get(stage, 0.0) + more


def report_profile(profile: Profile, limits: Sequence[Limits]) -> dict[str, Any]:
    """Shares of the wall time, and the least time that the machine's limits would allow as a share of the median.

    A step reads every weight once; "memory" is the time of reading them at the measured rate. "arithmetic" is the time
    of the FLOPs at the rate of the kernels' inner loop on data in the first-level cache. No step can be faster than
    either.
    """
    whole, middle = sum(profile.seconds), median(profile.seconds)
    found: dict[str, Any] = {"model": profile.model, "workload": profile.job.name, "bits": profile.bits}
    found["seconds"] = middle
    found["stages"] = {name: seconds / whole for name, seconds in profile.stages.items()}
    found["elsewhere"] = 1 - sum(found["stages"].values())
    if limits:
        read = median(limit.read_bytes_per_s for limit in limits)
        multiply = median(limit.multiplications_per_s[profile.bits] for limit in limits)
        found["memory"] = profile.weight_bytes * profile.job.steps / read / middle
        found["arithmetic"] = median(profile.flops) / 2 / multiply / middle
    return found
