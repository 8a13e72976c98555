"""How much of a search's time is not the model's forward pass."""

from __future__ import annotations

import asyncio
from time import perf_counter, thread_time

from outthink.bench.reason.run import apart
from outthink.bench.search.judge import TextScore
from outthink.bench.search.plan import OURS, Ground, Json, Part, Way
from outthink.bench.search.trees import LONGEST_LINE, draw_problems, options
from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.sampling import Sampling
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.step import Backend
from outthink.lm.model import Model, load, resolve
from outthink.reason.solve import ask, think
from outthink.tasks.problem import Problem

STRATEGIES = ("step-beam", "mcts", "particle-filter", "majority-vote")
BRANCHES = 64


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


def compiled_backend(backend: Backend) -> CpuBackend:
    """The same, which has a clock of its own. Raises CapabilityError for another than the compiled kernels."""
    if not isinstance(backend, CpuBackend):
        raise CapabilityError("The time outside the forward pass is measured with the compiled kernels; see doctor.")
    return backend


def under_the_clock(model: Model, problem: Problem, strategy: str, branches: int, seed: int) -> Json:
    """Seconds of one search; those of them within the engine's steps, and within the forward pass; and processor
    seconds of the strategy's own thread, beside which the engine's goes on unless both are in Python.
    """
    lm = apart(model, Ledger(), Sampling(seed=seed), f"{strategy}/{seed}/{perf_counter()}")
    engine = model.engine
    backend, step = compiled_backend(engine.backend), TimedStep(model)
    wanted = {"n": branches, "max_tokens": LONGEST_LINE} if strategy == "majority-vote" else options(strategy, branches)
    model.thread.call(lambda: vars(engine).update(step=step))
    start, computed, forward = perf_counter(), thread_time(), backend.forward_seconds
    asyncio.run(think(ask(problem, chat=model.chat), lm, strategy, TextScore(), **wanted))
    seconds, computed = perf_counter() - start, thread_time() - computed
    forward = backend.forward_seconds - forward
    model.thread.call(lambda: vars(engine).pop("step"))
    return {
        "seconds": seconds,
        "engine": step.seconds,
        "forward": forward,
        "strategy": computed,
        "share": 1 - forward / seconds,
        "drawn": lm.ledger.bill.decoded,
    }


SHARE = Part("share", "Time outside the model's forward pass", open_ways)
