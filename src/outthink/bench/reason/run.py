"""Answering the problems of every cell, several at once, each on a ledger of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.bench.reason.journal import Answers, Record
from outthink.bench.reason.pages import PageMeter, engines_of
from outthink.bench.reason.plan import Cell, Group, ModelSource, Problems, Progress
from outthink.core.budget import Ledger
from outthink.core.errors import OutthinkError, PromptError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import Method
from outthink.core.rng import mix
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.lm.model import Model
from outthink.reason.expression import read_strategy
from outthink.reason.holding import together
from outthink.reason.judged import COMPARING
from outthink.reason.scale import Room, scale_of
from outthink.reason.solve import ask, think
from outthink.tasks.problem import Problem
from outthink.verify import Verifier, opened
from outthink.verify.needs import check_model, refuse_relative, with_parts

Open = Callable[[str], Model]
"""Opens a model by its source."""
TYPICAL = 32  # problems of each group that say how long a line is


@dataclass(frozen=True)
class Job:
    """One problem to be answered in one cell."""

    cell: Cell
    group: Group
    number: int

    @property
    def problem(self) -> Problem:
        return self.group.problems[self.number]

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of its record."""
        return (*self.cell.key, self.group.suite, self.group.difficulty, self.number)


class StoppedError(OutthinkError):
    """The work was stopped before there was anything to report; what was answered is kept."""


class Stop:
    """A wish to stop: cuts what is in flight, whose results then count for nothing."""

    def __init__(self) -> None:
        self.asked = False
        self._flying: set[Ledger] = set()

    def __call__(self) -> None:
        """Stop; may be called from a signal handler."""
        self.asked = True
        for ledger in list(self._flying):
            ledger.cancel()

    def watch(self, ledger: Ledger) -> None:
        """Cut the work on ``ledger`` too, from now until `forget`."""
        self._flying.add(ledger)
        if self.asked:
            ledger.cancel()

    def forget(self, ledger: Ledger) -> None:
        """Let ``ledger`` be."""
        self._flying.discard(ledger)


def jobs_of(cells: Sequence[Cell], groups: Sequence[Group]) -> Iterator[Job]:
    """Problem by problem, so that whatever part is done compares all cells on the same problems."""
    for number in range(max(len(group.problems) for group in groups)):
        for group in groups:
            if number < len(group.problems):
                yield from (Job(cell, group, number) for cell in cells)


class Ground:
    """One model under measurement, its verifiers and ``seconds``, the models that strategies name, open and all their
    pages watched.
    """

    def __init__(
        self,
        model: Model,
        label: str,
        groups: Sequence[Group],
        config: Problems,
        judges: Mapping[str, Verifier],
        seconds: Mapping[str, Model] | None = None,
    ) -> None:
        self.model, self.label, self.config, self.judges = model, label, config, judges
        self.seconds = seconds or {}
        readers = (getattr(part, "model", None) for judge in judges.values() for part in with_parts(judge))
        self._meter = PageMeter(*engines_of([model, *self.seconds.values(), *readers]))
        lengths = [self._length(problem) for group in groups for problem in group.problems[:TYPICAL]]
        self.line = sum(lengths) / len(lengths)

    @property
    def weights(self) -> dict[str, str]:
        """Hashes of the checkpoints at work: ``model``, those of verifiers that have one, and of second models."""
        read = {
            name if place == 0 else f"{name}, part {place}": getattr(part, "model", None)
            for name, judge in self.judges.items()
            for place, part in enumerate(with_parts(judge))
        }
        read |= {f"second model {source}": model for source, model in self.seconds.items()}
        sources = {name: model.loaded.source for name, model in read.items() if model is not None}
        return {name: fingerprint(source) for name, source in {"model": self.model.loaded.source, **sources}.items()}

    def options(self, cell: Cell) -> dict[str, Any]:
        """The options that the strategy of ``cell`` runs with, a line being as long as the problems' own solutions."""
        return scale_of(cell.strategy).options(Room.of(self.model, cell.budget, self.line))

    def judge(self, cell: Cell) -> Verifier | None:
        """The verifier of ``cell``."""
        return None if cell.verifier is None else self.judges[cell.verifier]

    def check(self, cells: Iterable[Cell]) -> None:
        """Raise UserError, before anything is spent, for a cell whose model or verifier cannot do what its strategy
        needs, or whose strategy lacks a second model.
        """
        for cell in cells:
            lm, judge, options = self._session(Ledger(cell.budget), 0, "check"), self.judge(cell), self.options(cell)
            strategy = self._strategy(cell, lm.ledger, "check")
            strategy.check_options(options)
            check_model(lm, strategy, judge, options)
            if judge is not None and scale_of(cell.strategy).verifier and cell.strategy not in COMPARING:
                refuse_relative(judge)

    async def measure(
        self, jobs: Sequence[Job], journal: Answers, concurrency: int, stop: Stop, progress: Progress
    ) -> None:
        """Answer all of ``jobs``, ``concurrency`` at a time, and journal each as it is over."""
        waiting, total = iter(jobs), sum(_weight(job.cell) for job in jobs)
        done = 0.0

        async def work() -> None:
            nonlocal done
            for job in waiting:
                record = await self.answer(job, stop)
                if stop.asked:
                    return
                journal.add(record)
                done += _weight(job.cell)
                progress(done, total, f"{self.label}, {len(journal.records):,} answered")

        await together(work() for _ in range(concurrency))

    async def answer(self, job: Job, stop: Stop) -> Record:
        """The record of one job: a pure function of it and the seed, but for its seconds."""
        cell, problem, ledger = job.cell, job.problem, Ledger(job.cell.budget)
        namespace = repr(job.key)  # nothing that other work left in the cache is found, so the bill is its own
        question, fits = ask(problem, chat=self.model.chat), True
        stop.watch(ledger)
        try:
            posterior = await self._think(job, question, ledger, namespace)
        except PromptError:
            posterior, fits = Posterior(cost=ledger.bill, stopped="the prompt does not fit"), False
        finally:
            stop.forget(ledger)
            pages = self._meter.take(namespace)
        best = posterior.best
        return Record(
            *cell.key,
            job.group.suite,
            job.group.difficulty,
            job.number,
            problem.canonical_key,
            problem.family,
            problem.difficulty,
            best,
            best is not None and problem.check(best),
            posterior.confidence,
            posterior.stopped,
            posterior.attempts,
            posterior.cost.to_json(),
            pages,
            _over(ledger),
            fits,
        )

    async def _think(self, job: Job, question: Question, ledger: Ledger, namespace: str) -> Posterior:
        seed = mix(self.config.seed, int(job.problem.canonical_key, 16))  # one for a problem: problems are independent
        lm, strategy = self._session(ledger, seed, namespace), self._strategy(job.cell, ledger, namespace)
        return await think(question, lm, strategy, self.judge(job.cell), **self.options(job.cell))

    def _session(self, ledger: Ledger, seed: int, namespace: str, model: Model | None = None) -> LocalLM:
        sampling = Sampling(temperature=self.config.temperature, seed=seed)
        return apart(model or self.model, ledger, sampling, namespace)

    def _strategy(self, cell: Cell, ledger: Ledger, namespace: str) -> Method:
        """That of ``cell``, with sessions of its own of the models that it names."""
        return read_strategy(cell.strategy, lambda name: self._session(ledger, 0, namespace, self.seconds[name]))

    def _length(self, problem: Problem) -> int:
        lm = self.model.session()
        return len(lm.encode(ask(problem, chat=self.model.chat).prompt)) + len(lm.encode(problem.solution))


async def open_grounds(
    stack: AsyncExitStack,
    sources: Iterable[ModelSource],
    open_model: Open,
    groups: Sequence[Group],
    config: Problems,
    verifiers: Sequence[str],
    strategies: Sequence[str] = (),
) -> dict[str, Ground]:
    """The models by their labels, each with the verifiers and the models that ``strategies`` name, until ``stack`` is
    closed.
    """
    grounds, seconds = dict[str, Ground](), dict[str, Model]()

    def open_second(name: str) -> LocalLM:
        if name not in seconds:
            seconds[name] = stack.enter_context(open_model(name))
        return seconds[name].session()

    for strategy in strategies:
        read_strategy(strategy, open_second)
    for source in dict.fromkeys(sources):
        model = stack.enter_context(open_model(source.source))
        judges = {name: await stack.enter_async_context(opened(name, model.session())) for name in verifiers}
        known = {name: judge for name, judge in judges.items() if judge is not None}
        grounds[source.label] = Ground(model, source.label, groups, config, known, seconds)
    return grounds


def apart(model: Model, ledger: Ledger, sampling: Sampling, namespace: str) -> LocalLM:
    """A session of ``model`` that finds nothing in the cache but its own, so that what it costs is what it needs."""
    return LocalLM(model.thread, model.loaded.tokenizer, ledger, sampling, name=model.name, namespace=namespace)


def fingerprint(directory: Path) -> str:
    """A hash of a model's configuration and weights, by which a changed checkpoint under the same name is noticed.

    Of a weights file it reads the beginning, the end and the size.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted([*directory.glob("config.json"), *directory.glob("*.safetensors")]):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(max(0, size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()


def _over(ledger: Ledger) -> float:
    budget, bill = ledger.budget, ledger.bill
    pairs = ((bill.tokens, budget.tokens), (bill.flops, budget.flops), (bill.seconds, budget.seconds))
    return max((max(0.0, spent - limit) for spent, limit in pairs if limit is not None), default=0.0)


def _weight(cell: Cell) -> float:
    """About how long a cell takes compared with others: what it may spend, or what one line costs of it."""
    limit = cell.budget.tokens or cell.budget.flops or cell.budget.seconds or 1.0
    return limit * (0.1 if cell.strategy in ("greedy", "step-greedy") else 1.0)
