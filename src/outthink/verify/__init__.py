"""Verifiers: what a line of thought is worth, by an exact checker, a reward model or the language model itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from outthink.core.calls import Call, read_call
from outthink.core.errors import PluginError, UserError
from outthink.core.registry import Registry
from outthink.lm.protocol import LM
from outthink.verify.expression import FORMS, composed, composes
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
    it does not take, whose checkpoint is not there, or for one of `FORMS` that cannot be read. Loads nothing.
    """
    _check(read_call(spec, "verifier"))


@asynccontextmanager
async def opened(verifier: str | Verifier | None, lm: LM | None = None) -> AsyncIterator[Verifier | None]:
    """The verifier that ``NAME[:ARGUMENT]`` or one of `FORMS` asks for, to judge lines of ``lm``, closed again
    afterwards; anything else as it is. Raises as `check_spec` does.
    """
    if not isinstance(verifier, str):
        yield verifier
        return
    call = read_call(verifier, "verifier")
    _check(call)
    async with AsyncExitStack() as stack:
        yield await _open(call, lm, stack)


def _check(call: Call) -> Any:
    """The class that ``call`` names, or what it makes of such: enough to see whether the parts fit together."""
    if composes(call):
        return composed(call, [_check(member) for member in call.members])
    kind, argument = _named(call)
    if (check := getattr(kind, "check", None)) is not None:
        check(argument)
    return kind


async def _open(call: Call, lm: LM | None, stack: AsyncExitStack) -> Verifier:
    if composes(call):
        return composed(call, [await _open(member, lm, stack) for member in call.members])
    kind, argument = _named(call)
    opens = getattr(kind, "open", None)
    # Loading a checkpoint takes its time, in which others on this event loop go on.
    judge: Verifier = kind() if opens is None else await asyncio.to_thread(opens, lm, argument)
    if (close := getattr(judge, "close", None)) is not None:
        stack.callback(close)
    return judge


def _named(call: Call) -> tuple[type[Verifier], str]:
    name, colon, argument = call.name.partition(":")
    kind = VERIFIERS.get(name)
    if call.given or call.named:
        raise UserError(f"Verifier '{name}' takes nothing in brackets. The ways to compose verifiers are: {FORMS}.")
    if colon and not hasattr(kind, "open"):
        raise UserError(f"Verifier {call.name!r}: '{name}' takes nothing after a colon.")
    return kind, argument


__all__ = ["FORMS", "VERIFIERS", "Verifier", "check_spec", "opened"]
