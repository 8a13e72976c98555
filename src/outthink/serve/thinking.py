"""Requests that ask for thought: what they say in one of four ways, and what they get."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from outthink.core.budget import Budget
from outthink.core.calls import read_call
from outthink.core.errors import UnknownNameError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.registry import Method
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.reason import STRATEGIES
from outthink.reason.scale import spending
from outthink.reason.solve import think
from outthink.serve.failures import ApiError
from outthink.serve.schema import Effort, SolveRequest, Thinking
from outthink.serve.service import Service
from outthink.tasks.families import read_problem
from outthink.verify import VERIFIERS
from outthink.verify.expression import composes

DEFAULT_STRATEGY = "majority-vote"
CONFIDENT_STRATEGY = "adaptive-vote"
"""What a confidence asks for that comes without a strategy."""
DEFAULT_BUDGET = "4k tokens"
EFFORT_TOKENS = {"low": 1_000, "medium": 4_000, "high": 16_000}
_SUFFIX = re.compile(r"(?P<strategy>[a-z][a-z0-9-]*?)(?:-(?P<budget>[0-9]+(?:\.[0-9]+)?[km]?))?")
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


def verifiers() -> list[str]:
    """The names of verifiers that clients may ask for."""
    return [name for name in VERIFIERS.names() if name not in RUNS_CODE]


def plan_of(
    thinking: Thinking | None,
    effort: Effort | None = None,
    tokens: int | None = None,
    suffix: str | None = None,
    longest: int | None = None,
) -> Plan | None:
    """The plan that a request makes, None where it asks for no thought.

    The ``thinking`` object goes before the model name's ``suffix`` (``mcts-8k``), that before a budget of ``tokens``,
    that before the ``effort``. ``longest``: the most tokens of a line. Raises ApiError for what cannot be read or
    done, UnknownNameError for an unknown strategy or verifier.
    """
    if thinking is None and suffix is None and tokens is None and effort in (None, "none", "minimal"):
        return None
    plan = Plan()
    if effort in EFFORT_TOKENS:
        plan = replace(plan, budget=Budget(tokens=EFFORT_TOKENS[effort]))
    if tokens is not None:
        plan = replace(plan, budget=Budget(tokens=tokens))
    said = spelled_out(thinking or Thinking(), suffix)
    plan = _with_thinking(plan, said)
    method = STRATEGIES.get(plan.strategy)
    options = _options(method, said, longest)
    method.check_options(options)
    _check_named(options)
    return replace(plan, options=options)


def spelled_out(thinking: Thinking, suffix: str | None = None) -> Thinking:
    """``thinking`` with what the model name's ``suffix`` adds to it, and with the strategy that a confidence alone asks
    for. Raises ApiError 400 for a suffix that cannot be read.
    """
    said: dict[str, Any] = {}
    if suffix is not None:
        strategy, budget = _read_suffix(suffix)
        if thinking.strategy is None:
            said["strategy"] = strategy
        if thinking.budget is None and budget is not None:
            said["budget"] = f"{budget} tokens"
    elif thinking.confidence is not None and thinking.strategy is None:
        said["strategy"] = CONFIDENT_STRATEGY
    return thinking.model_copy(update=said) if said else thinking


def spelled_solve(service: Service, asked: SolveRequest) -> SolveRequest:
    """A solve with what its model's name says of thinking spelled out in ``thinking``. Raises what `Service.base_name`
    and `spelled_out` raise.
    """
    base, suffix = service.base_name(asked.model)
    thinking = spelled_out(asked.thinking, suffix)
    if thinking is asked.thinking:
        return asked
    return asked.model_copy(update={"model": base, "thinking": thinking})


def within_limits(service: Service, plan: Plan) -> Plan:
    """``plan`` with no more tokens than the server allows. Raises ApiError 400 where it asks for more."""
    limit, budget = service.config.max_tokens, plan.budget
    if budget.tokens is None:
        return replace(plan, budget=Budget(tokens=limit, seconds=budget.seconds, flops=budget.flops))
    if budget.tokens > limit:
        raise ApiError(
            400, f"A budget of {budget.tokens:,.0f} tokens is above this server's {limit:,}.", param="thinking"
        )
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

    Options that the plan does not set are such that its budget is spent. ``parse`` reads the answer out of a line,
    where it is not written as answers usually are.
    Leaving early cancels the work and frees its pages.
    """
    plan = within_limits(service, plan)
    lm = service.lm(tenant, plan.budget, sampling)
    began = time.monotonic()
    question = await asyncio.to_thread(_question, prompt) if parse is None else Question(prompt, parse)
    method = STRATEGIES.get(plan.strategy)
    options = await asyncio.to_thread(spending, method, service.model, question, plan.budget)
    work = asyncio.create_task(think(question, lm, method, plan.verifier, **(options | plan.options)))
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


def _options(method: Method, said: Thinking, longest: int | None) -> dict[str, Any]:
    """The options that were sent, and those that other fields stand for. Raises ApiError 400 where the method has no
    such option, or it was sent with another value.
    """
    options = dict(said.options)
    for said_by, param, value, name in (
        ("confidence", "thinking", said.confidence, method.confidence),
        ("max_tokens", "max_tokens", longest, "max_tokens" if "max_tokens" in method.options else None),
    ):
        if value is None:
            continue
        if name is None:
            able = f"; '{CONFIDENT_STRATEGY}' has one" if said_by == "confidence" else ""
            raise ApiError(400, f"'{method.name}' knows no {said_by}{able}: leave it out.", param=param)
        if options.setdefault(name, value) != value:
            raise ApiError(400, f"{said_by} and the option {name} say different things: give one of them.", param=param)
    return options


def _read_suffix(suffix: str) -> tuple[str, str | None]:
    """The strategy, and the number of tokens if there is one."""
    read = _SUFFIX.fullmatch(suffix)
    if read is None:
        raise ApiError(
            400, f"Cannot read {suffix!r} after the model's name: write STRATEGY or STRATEGY-BUDGET, as mcts-8k.",
            param="model",
        )  # fmt: skip
    strategy, budget = read["strategy"], read["budget"]
    if budget is not None and suffix in STRATEGIES.names():  # a name that ends in digits
        strategy, budget = suffix, None
    return strategy, budget


def _with_thinking(plan: Plan, thinking: Thinking) -> Plan:
    try:
        budget = plan.budget if thinking.budget is None else Budget(thinking.budget)
    except UserError as error:
        raise ApiError(400, str(error), param="thinking") from error
    if 0 in (budget.tokens, budget.flops, budget.seconds):
        raise ApiError(400, f"A budget of {thinking.budget!r} buys nothing: give more.", param="thinking")
    if thinking.verifier is not None:
        _check_verifier(thinking.verifier)
    return replace(
        plan, strategy=thinking.strategy or plan.strategy, budget=budget, verifier=thinking.verifier or plan.verifier
    )


def _check_verifier(said: str) -> None:
    """Raise where a verifier, or one of those that it is composed of, is none that a client may ask for."""
    if ":" in said:
        raise ApiError(
            400, f"Verifier {said!r}: a client gives the name alone; the rest names files of the server.",
            param="thinking",
        )  # fmt: skip
    calls = [read_call(said, "verifier")]
    for call in calls:
        if composes(call):
            calls += call.members
        elif call.name in RUNS_CODE:
            raise ApiError(
                400, f"Verifier '{call.name}' runs what a client sends; no server does: use `outthink solve`.",
                param="thinking",
            )  # fmt: skip
        else:
            try:
                VERIFIERS.get(call.name)
            except UnknownNameError:
                raise UnknownNameError("verifier", call.name, verifiers()) from None


def _check_named(options: Mapping[str, Any]) -> None:
    """Raise ApiError 400 for what a client may not name in an option: files of the server, and expressions that could
    take for ever to be matched.
    """
    if isinstance(twist := options.get("twist"), str):
        _check_verifier(twist)
    if options.get("potential") is not None:
        raise ApiError(
            400, "No client gives this server a potential: leave it out, the verifier is one; or use `outthink solve`.",
            param="thinking",
        )  # fmt: skip


def _question(prompt: str | list[dict[str, str]]) -> Question:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt[-1]["role"] == "user" else ""
    known = read_problem(text)
    return Question(prompt, parse_answer, known.check if known is not None else None, known)
