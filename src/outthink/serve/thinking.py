"""Requests that ask for thought: what they say in one of four ways, and what they get."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from outthink.core.budget import Budget
from outthink.core.errors import UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.reason import STRATEGIES
from outthink.reason.solve import think
from outthink.serve.failures import ApiError
from outthink.serve.schema import Effort, Thinking
from outthink.serve.service import Service
from outthink.tasks.families import read_problem

DEFAULT_STRATEGY = "majority-vote"
DEFAULT_BUDGET = "4k tokens"
EFFORT_TOKENS = {"low": 1_000, "medium": 4_000, "high": 16_000}
_SUFFIX = re.compile(r"(?P<strategy>[a-z][a-z0-9-]*?)(?:-(?P<budget>[0-9]+(?:\.[0-9]+)?[km]?))?")
_CONFIDENCE_OPTIONS = ("confidence", "threshold")
PROGRESS_SECONDS = 0.25
RUNS_CODE = ("code",)
"""Verifiers that clients may not ask for: their tests are programs in the client's own words, and a sandbox is no place
for the code of somebody who is out to attack its host."""


@dataclass(frozen=True)
class Plan:
    """How to think: a strategy with its options, a budget, and perhaps a verifier."""

    strategy: str = DEFAULT_STRATEGY
    budget: Budget = field(default_factory=lambda: Budget(DEFAULT_BUDGET))
    verifier: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def plan_of(
    thinking: Thinking | None, effort: Effort | None = None, tokens: int | None = None, suffix: str | None = None
) -> Plan | None:
    """The plan that a request makes, None where it asks for no thought.

    The ``thinking`` object goes before the model name's ``suffix`` (``mcts-8k``), that before a budget of ``tokens``,
    that before the ``effort``. Raises ApiError for what cannot be read, UnknownNameError for an unknown strategy.
    """
    if thinking is None and suffix is None and tokens is None and effort in (None, "none", "minimal"):
        return None
    plan = Plan()
    if effort in EFFORT_TOKENS:
        plan = replace(plan, budget=Budget(tokens=EFFORT_TOKENS[effort]))
    if tokens is not None:
        plan = replace(plan, budget=Budget(tokens=tokens))
    if suffix is not None:
        plan = _with_suffix(plan, suffix)
    if thinking is not None:
        plan = _with_thinking(plan, thinking)
    method = STRATEGIES.get(plan.strategy)
    if thinking is not None and thinking.confidence is not None:
        name = next((name for name in _CONFIDENCE_OPTIONS if name in method.options), None)
        if name is None:
            raise ApiError(
                400, f"'{plan.strategy}' does not stop at a confidence; adaptive-vote does.", param="thinking"
            )
        plan = replace(plan, options={**plan.options, name: thinking.confidence})
    method.check_options(plan.options)
    return plan


async def deliberate(
    service: Service,
    tenant: str,
    prompt: str | list[dict[str, str]],
    plan: Plan,
    sampling: Sampling,
    parse: Callable[[str], str | None] | None = None,
) -> AsyncGenerator[LocalLM | Posterior, None]:
    """Think. Yields the `LM`, whose tree and ledger show how far it is, a few times a second; at last the posterior.

    ``parse`` reads the answer out of a line, where it is not written as answers usually are.
    Leaving early cancels the work and frees its pages.
    """
    limit = service.config.max_tokens
    if plan.budget.tokens is None or plan.budget.tokens > limit:
        if plan.budget.tokens is not None:
            raise ApiError(
                400, f"A budget of {plan.budget.tokens:,.0f} tokens is above this server's {limit:,}.", param="thinking"
            )
        plan = replace(plan, budget=Budget(tokens=limit, seconds=plan.budget.seconds, flops=plan.budget.flops))
    lm = service.lm(tenant, plan.budget, sampling)
    began = time.monotonic()
    question = await asyncio.to_thread(_question, prompt) if parse is None else Question(prompt, parse)
    work = asyncio.create_task(think(question, lm, plan.strategy, plan.verifier, **plan.options))
    try:
        while not work.done():
            yield lm
            await asyncio.wait((work,), timeout=PROGRESS_SECONDS)
        posterior = work.result()
        service.metrics.searched(plan.strategy, posterior)
        facts = {"strategy": plan.strategy, "stopped": posterior.stopped, "tokens": posterior.cost.tokens}
        service.tracing.record("solve", began, time.monotonic(), **facts)
        yield posterior
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def progress(lm: LocalLM) -> dict[str, Any]:
    """How far a search is: its bill so far and the number of its branches."""
    bill = lm.ledger.bill
    return {
        "tokens": bill.tokens,
        "seconds": round(bill.seconds, 3),
        "fraction_spent": lm.ledger.fraction_spent,
        "branches": sum(1 for _ in lm.tree.walk()) - 1,
    }


def report(posterior: Posterior, with_tree: bool = False) -> dict[str, Any]:
    """What an answer carries beside its text."""
    found = posterior.to_json()
    if not with_tree:
        del found["tree"]
    return found


def _with_suffix(plan: Plan, suffix: str) -> Plan:
    read = _SUFFIX.fullmatch(suffix)
    if read is None:
        raise ApiError(
            400, f"Cannot read {suffix!r} after the model's name: write STRATEGY or STRATEGY-BUDGET, as mcts-8k.",
            param="model",
        )  # fmt: skip
    strategy, budget = read["strategy"], read["budget"]
    if budget is not None and suffix in STRATEGIES.names():  # a name that ends in digits
        strategy, budget = suffix, None
    return replace(plan, strategy=strategy, budget=Budget(f"{budget} tokens") if budget else plan.budget)


def _with_thinking(plan: Plan, thinking: Thinking) -> Plan:
    try:
        budget = plan.budget if thinking.budget is None else Budget(thinking.budget)
    except UserError as error:
        raise ApiError(400, str(error), param="thinking") from error
    if ":" in (thinking.verifier or ""):
        raise ApiError(
            400, f"Verifier {thinking.verifier!r}: a client gives the name alone; the rest names files of the server.",
            param="thinking",
        )  # fmt: skip
    if thinking.verifier in RUNS_CODE:
        raise ApiError(
            400, f"Verifier '{thinking.verifier}' runs what a client sends; no server does: use `outthink solve`.",
            param="thinking",
        )  # fmt: skip
    return replace(
        plan,
        strategy=thinking.strategy or plan.strategy,
        budget=budget,
        verifier=thinking.verifier or plan.verifier,
        options=dict(thinking.options) or plan.options,
    )


def _question(prompt: str | list[dict[str, str]]) -> Question:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt[-1]["role"] == "user" else ""
    known = read_problem(text)
    return Question(prompt, parse_answer, known.check if known is not None else None, known)
