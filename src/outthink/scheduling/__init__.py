"""Which positions to compute next. Policies without torch, for the engine and a simulator alike."""

from outthink.scheduling.scheduler import Limits, Scheduler, Slice

__all__ = ["Limits", "Scheduler", "Slice"]
