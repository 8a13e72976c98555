"""How much of a search's time is not the model's forward pass."""

from __future__ import annotations

import asyncio
from time import perf_counter, thread_time
from typing import Any

from outthink.bench.reason.run import apart
from outthink.bench.search.judge import TextScore
from outthink.bench.search.plan import OURS, Ground, Json, Part, Way
from outthink.bench.search.trees import LONGEST_LINE, draw_problems, options
from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling
from outthink.kernels.step import Backend, StepBatch
from outthink.lm.model import Model, load, resolve
from outthink.reason.solve import ask, think
from outthink.tasks.problem import Problem

STRATEGIES = ("step-beam", "mcts", "particle-filter", "majority-vote")
BRANCHES = 64


class TimedBackend:
    """A backend, and the seconds that it computed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, batch: StepBatch) -> Any:
        """See `Backend.run`."""
        start = perf_counter()
        logits = self._backend.run(batch)
        self.seconds += perf_counter() - start
        return logits


class TimedStep:
    """An engine's step, and the seconds that it took, the backend's included."""

    def __init__(self, model: Model) -> None:
        self._step = model.engine.step
        self.seconds = 0.0

    def __call__(self) -> bool:
        start = perf_counter()
        more = self._step()
        self.seconds += perf_counter() - start
        return more


def open_ways(ground: Ground) -> list[Way]:
    """Ours, under the clock."""
    branches = 16 if ground.config.quick else BRANCHES
    works = {f"{name} {branches}": name for name in STRATEGIES}
    ground.say("loading the model")
    model = ground.stack.enter_context(load(resolve(ground.config.model)))
    problems = draw_problems(ground.config.difficulty, ground.config.rounds + 1)
    return [
        Way(OURS, tuple(works), lambda work, seed: under_the_clock(model, problems[seed], works[work], branches, seed))
    ]


def under_the_clock(model: Model, problem: Problem, strategy: str, branches: int, seed: int) -> Json:
    """Seconds of one search; those of them within the engine's steps, and within the forward pass; and processor
    seconds of the strategy's own thread, beside which the engine's goes on unless both are in Python.
    """
    lm = apart(model, Ledger(), Sampling(seed=seed), f"{strategy}/{seed}/{perf_counter()}")
    engine = model.engine
    backend, timed, step = engine.backend, TimedBackend(engine.backend), TimedStep(model)
    wanted = {"n": branches, "max_tokens": LONGEST_LINE} if strategy == "majority-vote" else options(strategy, branches)
    model.thread.call(lambda: vars(engine).update(backend=timed, step=step))
    start, computed = perf_counter(), thread_time()
    asyncio.run(think(ask(problem, chat=model.chat), lm, strategy, TextScore(), **wanted))
    seconds, computed = perf_counter() - start, thread_time() - computed
    model.thread.call(lambda: (vars(engine).update(backend=backend), vars(engine).pop("step")))
    return {
        "seconds": seconds,
        "engine": step.seconds,
        "forward": timed.seconds,
        "strategy": computed,
        "share": 1 - timed.seconds / seconds,
        "drawn": lm.ledger.bill.decoded,
    }


SHARE = Part("share", "Time outside the model's forward pass", open_ways)
