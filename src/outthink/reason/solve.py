"""The way in: a question, a model, a strategy and a budget; out comes a posterior."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from typing import Any

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import PromptError, UserError
from outthink.core.posterior import Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.registry import Method
from outthink.core.sampling import Sampling
from outthink.lm.model import load
from outthink.lm.protocol import LM
from outthink.lm.source import LanguageModel
from outthink.reason.expression import read_strategy
from outthink.reason.scale import spending
from outthink.tasks.problem import Problem
from outthink.verify import Verifier, opened
from outthink.verify.checked import Checked
from outthink.verify.needs import check_model, needs_of
from outthink.verify.unit_tests import UnitTests, parse_program

TOP_LOGPROBS = 8  # how many likely tokens are noted where a verifier reads them and nobody said how many


def ask(problem: str | Problem | Question, *, chat: bool = True) -> Question:
    """The question that a text or a task's problem is; texts that a task family recognises can be checked exactly, and
    of a text with examples of a Python session in it the answer is a program.

    ``chat``: whether the model has a chat template; else it reads the bare text.
    """
    if isinstance(problem, Question):
        return problem
    from outthink.tasks.families import read_problem

    known = read_problem(problem) if isinstance(problem, str) else problem
    text = known.prompt if known is not None else str(problem)
    if not text.strip():
        raise PromptError("The problem is empty: say what is to be solved.")
    prompt = [{"role": "user", "content": text}] if chat else text
    if known is None and (tests := UnitTests.in_text(text)) is not None:
        return Question(prompt, parse_program, problem=tests)
    return Question(prompt, parse_answer, known.check if known is not None else None, known)


async def think(
    question: Question,
    lm: LM,
    strategy: str | Method = "majority-vote",
    verifier: str | Verifier | None = None,
    **options: Any,
) -> Posterior:
    """Run a strategy over ``lm`` and its ledger. Never raises for want of budget.

    An option that is a model is an `LM`; whatever ledger it has, it is put on that of ``lm``.
    Raises UnknownNameError for a strategy or verifier that is not known, UserError for an option that it has not, and
    CapabilityError where ``lm`` does not offer what they need; before anything is spent. Raises UserError for a
    verifier whose scores are no log-weights.
    """
    method = read_strategy(strategy, _refuse) if isinstance(strategy, str) else strategy
    method.check_options(options)
    for name in method.models:
        if (other := options.get(name)) is not None:
            options[name] = (_refuse(other) if isinstance(other, str) else other).with_ledger(lm.ledger)
    async with opened(verifier, lm) as judge:
        if judge is not None:
            await asyncio.to_thread(judge.require, question)  # which may read a long text, or ask a solver
            if "top_log_probs" in needs_of(judge) and not lm.sampling.top_logprobs:
                lm = lm.with_sampling(replace(lm.sampling, top_logprobs=TOP_LOGPROBS))
        check_model(lm, method, judge, options)
        checked = None if judge is None else Checked(judge)
        posterior = await method.run(question, lm, checked, lm.ledger, **options)
    cut = lm.ledger.exhausted or any(thought.finish == "budget" for thought in lm.tree.walk())
    stopped = "budget" if cut and posterior.stopped != "verified" else posterior.stopped
    return replace(posterior, cost=lm.ledger.bill, tree=lm.tree, method=method.name, stopped=stopped)


def _refuse(source: str) -> LM:
    raise UserError(
        f"`think` takes an LM where a strategy wants the model {source!r}; `outthink.solve` opens it by name."
    )


def solve(
    problem: str | Problem | Question,
    *,
    model: str | LanguageModel | None = None,
    strategy: str | Method = "majority-vote",
    budget: str | Budget | None = None,
    verifier: str | Verifier | None = None,
    sampling: Sampling | None = None,
    priority: int = 0,
    on_start: Callable[[LM], None] | None = None,
    **options: Any,
) -> Posterior:
    """Think about ``problem`` within ``budget`` and return the posterior over answers.

    ``model`` is a directory, a hub id, or what `outthink.load` or `outthink.connect` returned; by default the bundled
    model. ``strategy`` is a name, strategies combined as `read_strategy` has it, or a `Method`. ``options`` are the
    strategy's own, such as ``n=16``; those that are models are given as ``model`` is, and share the bill. Those
    not given are such that a ``budget`` is spent, as `spending` says; without one they have their defaults.
    ``priority`` is that of `Ledger`, beside others on the same model. ``on_start`` is handed the `LM`, whose ``tree``
    and ``ledger`` show progress.
    """
    whole = Ledger(priority=priority)
    limits = budget if isinstance(budget, Budget) else Budget(budget)
    with ExitStack() as stack:

        def opened(source: str | PathLike[str] | LanguageModel | None) -> LanguageModel:
            if source is None or isinstance(source, str | PathLike):
                return stack.enter_context(load(None if source is None else str(source)))
            if not hasattr(source, "session"):
                raise UserError(f"{source!r} is no model: give a directory, a name, or what `outthink.load` returned.")
            return source

        def open_second(source: str | PathLike[str] | LanguageModel) -> LM:
            return opened(source).session()

        method = read_strategy(strategy, open_second) if isinstance(strategy, str) else strategy
        method.check_options(options)
        main = opened(model)
        seconds = {name: open_second(options[name]) for name in method.models if options.get(name) is not None}
        return _run(_solve(problem, main, method, whole, limits, verifier, sampling, on_start, options | seconds))


def _run(work: Coroutine[Any, Any, Posterior]) -> Posterior:
    """Run ``work`` to its end, in a thread of its own where an event loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _solve(
    problem: str | Problem | Question,
    model: LanguageModel,
    method: Method,
    whole: Ledger,
    budget: Budget,
    verifier: str | Verifier | None,
    sampling: Sampling | None,
    on_start: Callable[[LM], None] | None,
    options: dict[str, Any],
) -> Posterior:
    question = ask(problem, chat=model.chat)
    lm = model.session(whole.slice(budget), sampling)
    if on_start is not None:
        on_start(lm)
    return await think(question, lm, method, verifier, **spending(method, model, question, budget) | options)
