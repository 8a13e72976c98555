"""Which positions to compute next. Policies without torch, for the engine and a simulator alike."""

from outthink.scheduling.gang import Gang
from outthink.scheduling.scheduler import Scheduler
from outthink.scheduling.step import Limits, Slice, pending

__all__ = ["Gang", "Limits", "Scheduler", "Slice", "pending"]
