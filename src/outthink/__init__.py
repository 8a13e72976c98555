"""Outthink: an inference engine in which thinking longer is a first-class workload.

>>> import outthink
>>> posterior = outthink.solve("compute 12 + 7 * 5", strategy="majority-vote", budget="4k tokens")
>>> posterior.best, posterior.confidence, posterior.cost
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outthink.core.budget import Bill, Budget, Ledger
    from outthink.core.estimate import Estimate
    from outthink.core.posterior import Posterior
    from outthink.core.question import Question
    from outthink.core.registry import method
    from outthink.core.sampling import Sampling, Until
    from outthink.learn.twist import learn_twist
    from outthink.lm.model import Model, load
    from outthink.lm.protocol import LM, Branch
    from outthink.lm.remote.model import RemoteModel, connect
    from outthink.posterior.potential import Potential, Prefix, Twist
    from outthink.reason.particles.bounds import evidence_bounds
    from outthink.reason.solve import ask, solve, think

__version__ = "0.1.0"

_PUBLIC = {
    "Bill": "outthink.core.budget",
    "Branch": "outthink.lm.protocol",
    "Budget": "outthink.core.budget",
    "Estimate": "outthink.core.estimate",
    "LM": "outthink.lm.protocol",
    "Ledger": "outthink.core.budget",
    "Model": "outthink.lm.model",
    "Posterior": "outthink.core.posterior",
    "Potential": "outthink.posterior.potential",
    "Prefix": "outthink.posterior.potential",
    "Question": "outthink.core.question",
    "Sampling": "outthink.core.sampling",
    "Twist": "outthink.posterior.potential",
    "Until": "outthink.core.sampling",
    "RemoteModel": "outthink.lm.remote.model",
    "ask": "outthink.reason.solve",
    "connect": "outthink.lm.remote.model",
    "evidence_bounds": "outthink.reason.particles.bounds",
    "learn_twist": "outthink.learn.twist",
    "load": "outthink.lm.model",
    "method": "outthink.core.registry",
    "solve": "outthink.reason.solve",
    "think": "outthink.reason.solve",
}

__all__ = [
    "LM",
    "Bill",
    "Branch",
    "Budget",
    "Estimate",
    "Ledger",
    "Model",
    "Posterior",
    "Potential",
    "Prefix",
    "Question",
    "RemoteModel",
    "Sampling",
    "Twist",
    "Until",
    "__version__",
    "ask",
    "connect",
    "evidence_bounds",
    "learn_twist",
    "load",
    "method",
    "solve",
    "think",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that ``import outthink`` stays quick."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'outthink' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
