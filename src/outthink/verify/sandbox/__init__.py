"""Programs of a model run apart: in a process of their own without network, files, environment or time to speak of."""

from outthink.verify.sandbox.run import Outcome, Sandbox

__all__ = ["Outcome", "Sandbox"]
