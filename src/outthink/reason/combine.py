"""Strategies made of strategies. Each function takes methods and returns one, to be run like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, PromptError, UserError
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.core.registry import Guarantee, Method
from outthink.core.rng import mix
from outthink.lm.protocol import LM
from outthink.reason.holding import together
from outthink.reason.population import log_sum
from outthink.verify import Verifier

Run = Callable[[Question, LM, Verifier | None, Ledger], Coroutine[Any, Any, Posterior]]


def bind(method: Method, **options: Any) -> Method:
    """``method`` with some of its options set. Raises UserError for one that it has not."""
    if unknown := options.keys() - method.options.keys():
        raise UserError(f"Strategy '{method.name}' has no option {', '.join(sorted(unknown))}; it has: "
                        f"{', '.join(method.options)}.")  # fmt: skip

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        return await method.run(question, lm, verifier, ledger, **options)

    left = tuple(name for name in method.models if options.get(name) is None)
    return replace(method, run=run, models=left, confidence=None)


def within(method: Method, *, share: float | None = None, budget: Budget | None = None) -> Method:
    """``method`` on a slice of what is left: a ``share`` of every limit, or a fixed ``budget``."""
    if (share is None) == (budget is None) or (share is not None and not 0 < share <= 1):
        raise UserError(f"within needs a share between 0 and 1, or a budget: share={share}, budget={budget}.")

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        part = budget if budget is not None else ledger.share(share or 1.0)
        return await _on(ledger.slice(part), method, question, lm, verifier, None)

    return replace(method, run=run, confidence=None)


def then(first: Method, second: Method, *, below: float = 0.6, share: float = 0.5) -> Method:
    """A cascade: ``first`` on its ``share`` of the budget; where its confidence is ``below`` that, ``second`` on the
    rest. Where the second finds nothing, or cannot do what it is asked (CapabilityError, PromptError), the first's
    answer stands.
    """
    _check_share("share", share)
    _check_share("below", below)

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        quick = await _on(ledger.slice(ledger.share(share)), first, question, lm, verifier, None)
        if quick.best is not None and quick.confidence >= below:
            return replace(quick, stopped=f"{first.name} was sure")
        try:
            slow = await _on(ledger, second, question, lm, verifier, 1)
        except (CapabilityError, PromptError) as error:
            if quick.best is None:
                raise
            return replace(quick, stopped=f"{second.name} failed, so the answer is that of {first.name}: {error}")
        attempts = quick.attempts + slow.attempts
        return replace(slow if slow.best is not None or quick.best is None else quick, attempts=attempts)

    return _made("then", f"{first.name} then {second.name}", run, [first, second])


def retry(method: Method, times: int = 3, *, good: Callable[[Posterior], bool] | None = None) -> Method:
    """``method`` again and again on fresh random numbers, each time on an equal share of what is left, until a result
    is ``good`` (has an answer, by default). Where none is, or a later try cannot do what it is asked (CapabilityError,
    PromptError), the most confident one is returned.
    """
    if times < 1:
        raise UserError(f"times={times} must be at least 1.")
    enough = good or (lambda found: found.best is not None)

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        tries, failed = list[Posterior](), None
        for number in range(times):
            part = ledger.slice(ledger.share(1 / (times - number)))
            try:
                tries.append(await _on(part, method, question, lm, verifier, number))
            except (CapabilityError, PromptError) as error:
                if not any(found.best is not None for found in tries):
                    raise
                failed = f"try {number + 1} failed, so the answer is that of an earlier one: {error}"
                break
            if enough(tries[-1]) or ledger.exhausted:
                break
        best = tries[-1] if enough(tries[-1]) else max(tries, key=lambda found: found.confidence)
        return replace(best, attempts=sum(found.attempts for found in tries), stopped=failed or best.stopped)

    return _made("retry", f"{method.name} up to {times} times", run, [method])


def ensemble(*methods: Method, weights: Sequence[float] | None = None) -> Method:
    """All ``methods`` at once, each on an equal slice of the budget and on random numbers of its own; their posteriors
    are mixed by ``weights``, equal ones by default. One without an answer leaves its weight unassigned.
    """
    shares = _weights(methods, weights)

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        slices = [ledger.slice(ledger.share(1 / len(methods))) for _ in methods]
        found = await together(
            _on(part, method, question, lm, verifier, i)
            for i, (part, method) in enumerate(zip(slices, methods, strict=True))
        )
        return mixture(found, shares)

    return _made("ensemble", " + ".join(m.name for m in methods), run, methods)


def split(*parts: tuple[Method, float]) -> Method:
    """Methods one after another, each on its share of the whole budget and what those before it left over; their
    posteriors are mixed by the shares.
    """
    methods = [method for method, _ in parts]
    shares = _weights(methods, [share for _, share in parts])

    async def run(question: Question, lm: LM, verifier: Verifier | None, ledger: Ledger) -> Posterior:
        found = list[Posterior]()
        for i, method in enumerate(methods):
            part = ledger.slice(ledger.share(shares[i] / math.fsum(shares[i:])))
            found.append(await _on(part, method, question, lm, verifier, i))
        return mixture(found, shares)

    return _made("split", ", ".join(f"{m.name} {s:.0%}" for m, s in zip(methods, shares, strict=True)), run, methods)


def mixture(posteriors: Sequence[Posterior], weights: Sequence[float]) -> Posterior:
    """The law that follows each of ``posteriors`` with the probability that its weight says."""
    candidates, unassigned = list[Candidate](), list[float]()
    for found, weight in zip(posteriors, weights, strict=True):
        log_total = log_sum([*(c.log_weight for c in found.candidates), found.log_unassigned])
        if log_total == -math.inf:
            unassigned.append(math.log(weight))
            continue
        shift = math.log(weight) - log_total
        candidates += [replace(c, log_weight=c.log_weight + shift) for c in found.candidates]
        unassigned.append(found.log_unassigned + shift)
    attempts = sum(found.attempts for found in posteriors)
    return Posterior(tuple(candidates), log_unassigned=log_sum(unassigned), attempts=attempts)


async def _on(
    ledger: Ledger, method: Method, question: Question, lm: LM, verifier: Verifier | None, number: int | None
) -> Posterior:
    """``method`` on ``ledger``; with ``number``, on the random numbers of that member."""
    member = lm.with_ledger(ledger)
    if number:  # the first keeps the seed: alone it draws what it draws by itself
        member = member.with_sampling(replace(lm.sampling, seed=mix(lm.sampling.seed, number)))
    return await method.run(question, member, verifier, ledger)


def _made(kind: str, name: str, run: Run, parts: Sequence[Method]) -> Method:
    weakest: Guarantee = "heuristic"
    return Method(
        name=name,
        family="combined",
        summary=f"{kind}: {name}",
        guarantee=weakest,
        promise="none beyond those of its parts: " + ", ".join(dict.fromkeys(part.name for part in parts)),
        paper="; ".join(dict.fromkeys(part.paper for part in parts)),
        run=run,
        models=tuple(dict.fromkeys(name for part in parts for name in part.models)),
        needs=tuple(dict.fromkeys(need for part in parts for need in part.needs)),
        accepting=any(part.accepting for part in parts),
    )


def _weights(methods: Sequence[Method], weights: Sequence[float] | None) -> list[float]:
    found = [1.0] * len(methods) if weights is None else list(weights)
    if not methods or len(found) != len(methods) or not all(0 < weight < math.inf for weight in found):
        raise UserError(f"weights={weights!r} for {len(methods)} strategies: give one number above 0 for each of them.")
    return [weight / math.fsum(found) for weight in found]


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"{name}={share} must lie between 0 and 1.")
