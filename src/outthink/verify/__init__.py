"""Verifiers: what a line of thought is worth, by an exact checker, a reward model or the language model itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from outthink.core.errors import PluginError, UserError
from outthink.core.registry import Registry
from outthink.lm.protocol import LM
from outthink.verify.protocol import Verifier


def check_kind(name: str, found: Any) -> None:
    """Raise PluginError unless ``found`` is a class of `Verifier` called ``name``."""
    missing = [each for each in ("name", "sound", "partial", "require", "score", "accepts") if not hasattr(found, each)]
    if not isinstance(found, type) or missing:
        raise PluginError(f"it is no class of verifiers: it lacks {', '.join(missing) or 'a class'}")
    if found.name != name:
        raise PluginError(f"its name is '{found.name}'; the entry point must have the same name")
    if not inspect.iscoroutinefunction(found.score) or len(inspect.signature(found.score).parameters) != 4:
        raise PluginError("its score must be `async def score(self, question, branches, ledger)`")
    needed = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    if needed and not hasattr(found, "open"):
        raise PluginError(f"it needs {', '.join(needed)}, which nobody gives: have defaults, or a classmethod `open`")


VERIFIERS: Registry[type[Verifier]] = Registry(
    "verifier",
    "outthink.verifiers",
    {
        "code": "outthink.verify.unit_tests:CodeTests",
        "confidence": "outthink.verify.confidence:TokenConfidence",
        "entropy": "outthink.verify.confidence:Entropy",
        "exact": "outthink.verify.exact:ExactChecker",
        "likelihood": "outthink.verify.likelihood:Likelihood",
        "orm": "outthink.verify.reward:OutcomeReward",
        "pairwise": "outthink.verify.judge:PairwiseJudge",
        "prm": "outthink.verify.reward:ProcessReward",
        "self-evaluation": "outthink.verify.judge:SelfEvaluation",
        "step-oracle": "outthink.verify.oracle:StepOracle",
        "z3": "outthink.verify.smt:SmtChecker",
    },
    check_kind,
)


def check_spec(spec: str) -> None:
    """Raise UnknownNameError for a verifier ``NAME[:ARGUMENT]`` that is not known, and UserError for an argument that
    it does not take or whose checkpoint is not there. Loads nothing.
    """
    kind, argument = _named(spec)
    if (check := getattr(kind, "check", None)) is not None:
        check(argument)


@asynccontextmanager
async def opened(verifier: str | Verifier | None, lm: LM | None = None) -> AsyncIterator[Verifier | None]:
    """The verifier that ``NAME[:ARGUMENT]`` asks for, to judge lines of ``lm``, closed again afterwards; anything else
    as it is. Raises as `check_spec` does.
    """
    if not isinstance(verifier, str):
        yield verifier
        return
    kind, argument = _named(verifier)
    opens = getattr(kind, "open", None)
    # Loading a checkpoint takes its time, in which others on this event loop go on.
    judge: Verifier = kind() if opens is None else await asyncio.to_thread(opens, lm, argument)
    try:
        yield judge
    finally:
        if (close := getattr(judge, "close", None)) is not None:
            close()


def _named(spec: str) -> tuple[type[Verifier], str]:
    name, colon, argument = spec.partition(":")
    kind = VERIFIERS.get(name)
    if colon and not hasattr(kind, "open"):
        raise UserError(f"Verifier {spec!r}: '{name}' takes nothing after a colon.")
    return kind, argument


__all__ = ["VERIFIERS", "Verifier", "check_spec", "opened"]
