"""Searches over steps: branches in one engine, whole completions over HTTP, and its_hub over the same server."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from outthink.bench.engine.driver import Driver
from outthink.bench.reason.run import apart
from outthink.bench.search.judge import TextScore
from outthink.bench.search.plan import OURS, Ground, Json, Part, Way
from outthink.bench.search.positions import Work, check_each_once, stats_of
from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.model import Model, load, resolve
from outthink.lm.protocol import LM
from outthink.lm.remote import RemoteModel, connect
from outthink.reason.solve import ask, think
from outthink.tasks.problem import Problem
from outthink.tasks.suites import get_suite

WIDTH = 4  # ways to go on from a line that is kept
LONGEST_LINE = 256  # tokens
STEPS, STEP_TOKENS = 32, 64  # its_hub counts steps, and tokens of each
ANSWER = "answer:"  # a step with it is the last one
SERVER = "server"
COMPLETIONS, UNCACHED = "completions", "completions, no prefix cache"
ITS_HUB, ITS_HUB_UNCACHED = "its_hub", "its_hub, no prefix cache"


def options(strategy: str, branches: int) -> dict[str, Any]:
    """Options by which ``strategy`` has ``branches`` lines alive at once."""
    if strategy == "particle-filter":  # as its_hub has it: one population, resampled at every step
        return {"n": branches, "islands": 1, "floor": 1.0, "resampling": "multinomial", "max_tokens": LONGEST_LINE}
    if strategy == "step-beam":
        return {"n": branches, "width": WIDTH, "max_tokens": LONGEST_LINE}
    return {"n": branches, "width": WIDTH, "in_flight": branches // WIDTH, "max_tokens": LONGEST_LINE}


STRATEGIES = ("particle-filter", "step-beam", "mcts")
OF_ITS_HUB = ("particle-filter", "step-beam")


def open_ways(ground: Ground) -> list[Way]:
    """Ours, and the others as far as they can be had."""
    config, source = ground.config, resolve(ground.config.model)
    works = {f"{name} {branches}": (name, branches) for name in STRATEGIES for branches in config.branches}
    problems = draw_problems(config.difficulty, config.rounds + 1)
    ground.say("loading the model")
    model = ground.stack.enter_context(load(source))
    ways = [Way(OURS, tuple(works), lambda work, seed: in_engine(model, problems[seed], *works[work], seed))]
    ground.say("starting the server")
    server, told = ground.open("drive_server.py", Path(sys.executable), model=str(source))
    remote = ground.stack.enter_context(
        connect(told["base_url"], chat=True, reproducible=False, concurrency=2 * max(config.branches), retries=0)
    )

    def completions(shared: bool) -> Any:
        return lambda work, seed: over_http(remote, server, shared, problems[seed], *works[work], seed)

    ways += [Way(COMPLETIONS, tuple(works), completions(True)), Way(UNCACHED, tuple(works), completions(False))]
    theirs = ground.driver(ITS_HUB, "drive_its_hub.py", "its-hub", base_url=told["base_url"], model=remote.name)
    if theirs is not None:
        fit = tuple(work for work, (name, _) in works.items() if name in OF_ITS_HUB)

        def its_hub(shared: bool) -> Any:
            return lambda work, seed: by_its_hub(theirs, server, shared, problems[seed], *works[work])

        ways += [Way(ITS_HUB, fit, its_hub(True)), Way(ITS_HUB_UNCACHED, fit, its_hub(False))]
    return ways


def in_engine(model: Model, problem: Problem, strategy: str, branches: int, seed: int) -> Json:
    """One search in our engine. Raises ComputedTwiceError unless it computed the positions of its tree, each once."""
    question = ask(problem, chat=model.chat)
    lm = apart(model, Ledger(), Sampling(seed=seed), f"{strategy}/{branches}/{seed}/{perf_counter()}")
    before = stats_of(model)
    seconds = asyncio.run(_timed(question, lm, strategy, branches))
    work = Work.between(before, stats_of(model))
    prompt = len(lm.encode(question.prompt))
    tree = check_each_once(work, lm.tree, prompt)
    return {"seconds": seconds, "positions": work.positions, "drawn": work.drawn, "tree": tree, "prompt": prompt}


def over_http(
    remote: RemoteModel, server: Driver, shared: bool, problem: Problem, strategy: str, branches: int, seed: int
) -> Json:
    """The same strategy over a server that knows whole completions alone."""
    lm = remote.session(Ledger(), Sampling(seed=seed))
    before = _begin(server, shared)
    seconds = asyncio.run(_timed(ask(problem, chat=remote.chat), lm, strategy, branches))
    return {"seconds": seconds, **_since(server, before)}


def by_its_hub(theirs: Driver, server: Driver, shared: bool, problem: Problem, strategy: str, branches: int) -> Json:
    """its_hub's own search over the same server."""
    before = _begin(server, shared)
    found = theirs.ask(
        op="search",
        strategy=strategy,
        prompt=problem.prompt,
        branches=branches,
        width=WIDTH,
        steps=STEPS,
        step_tokens=STEP_TOKENS,
        answer=ANSWER,
    )
    return {**found, **_since(server, before)}


async def _timed(question: Question, lm: LM, strategy: str, branches: int) -> float:
    start = perf_counter()
    await think(question, lm, strategy, TextScore(), **options(strategy, branches))
    return perf_counter() - start


def _begin(server: Driver, shared: bool) -> Json:
    server.ask(op="begin", shared=shared)
    return server.ask(op="counts")


def _since(server: Driver, before: Json) -> Json:
    after = server.ask(op="counts")
    return {name: after[name] - before[name] for name in before}


def draw_problems(difficulty: float, count: int) -> list[Problem]:
    """One problem for each round."""
    suite = replace(get_suite("outthink-core"), easiest=difficulty, hardest=difficulty)
    return list(suite.sample("test", count, 0, lambda _: None))


TREES = Part("trees", "Searches over steps", open_ways)
