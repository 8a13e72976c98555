"""Verifiers: what a line of thought is worth, by an exact checker or by the model itself."""

from outthink.core.registry import Registry
from outthink.verify.protocol import Verifier

VERIFIERS: Registry[type[Verifier]] = Registry(
    "verifier",
    "outthink.verifiers",
    {
        "exact": "outthink.verify.exact:ExactChecker",
        "likelihood": "outthink.verify.likelihood:Likelihood",
        "step-oracle": "outthink.verify.oracle:StepOracle",
    },
)

__all__ = ["VERIFIERS", "Verifier"]
