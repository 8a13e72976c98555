"""Labelling many problems at once, so that the engine's batch is full, into a file that survives a kill."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers

from outthink.core.errors import CheckpointError, UserError
from outthink.core.sampling import Sampling
from outthink.learn.data import problems, step_seed
from outthink.learn.rewards.labelers import Labeler, make_labeler
from outthink.learn.rewards.records import LabelledProblem
from outthink.learn.rewards.store import LabelFile
from outthink.learn.tokenizer import encode_example
from outthink.lm.model import Model
from outthink.reason.solve import ask
from outthink.tasks.problem import Problem, Split, check_difficulty

OnProgress = Callable[[int, int, str], None]
"""Called with (problems done, problems in all, what has been spent so far)."""


@dataclass(frozen=True)
class LabelConfig:
    """What to label: ``num_problems`` of ``split`` of ``suite`` up to difficulty ``hardest``, those that fit into the
    model's context with their own solution, ``lines`` sampled lines each, by the labeler called ``labels`` with
    ``rollouts`` continuations a prefix. ``concurrency`` problems are in flight at once; it changes no label.
    """

    labels: str = "monte-carlo"
    num_problems: int = 1000
    lines: int = 1
    rollouts: int = 8
    suite: str = "outthink-core"
    hardest: float = 0.5
    split: Split = "train"
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    concurrency: int = 24

    def __post_init__(self) -> None:
        for name in ("num_problems", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_difficulty(self.hardest)
        Sampling(temperature=self.temperature)

    @property
    def labeler(self) -> Labeler:
        """The labeler that this asks for. Raises UnknownNameError and UserError."""
        return make_labeler(self.labels, self.lines, self.rollouts, self.max_tokens)

    def settings(self, model: Model) -> dict[str, Any]:
        """What decides the labels of each problem, the model's weights included, as JSON values."""
        free = ("num_problems", "concurrency")
        named = {"what": "labels", "model": model.name, "weights": weights_digest(model.loaded.source)}
        return named | {key: value for key, value in asdict(self).items() if key not in free}


def label(model: Model, config: LabelConfig, out: Path, progress: OnProgress = lambda *_: None) -> None:
    """Label problems with the lines of ``model`` into ``out``; what is there already is kept and not done again.

    Ctrl-C keeps every problem that is finished; those in flight come out the same when they are begun again. Raises
    UserError where ``out`` holds other labels, before any compute.
    """
    labeler = config.labeler
    with LabelFile(out, config.settings(model)) as file:
        _run(_label_all(model, labeler, config, file, progress))


def weights_digest(directory: Path) -> str:
    """A digest of the safetensors in ``directory``, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def fitting_problems(model: Model, config: LabelConfig) -> Iterator[tuple[int, Problem]]:
    """The problems that are labelled, with their places in the stream of the suite."""
    file = model.loaded.source / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{model.loaded.source} has no tokenizer.json.")
    tokenizer, room = tokenizers.Tokenizer.from_file(str(file)), model.engine.max_positions
    stream = enumerate(problems(config.suite, config.split, config.seed, config.hardest))
    fitting = (
        (index, problem)
        for index, problem in stream
        if len(encode_example(tokenizer, problem.prompt, problem.solution)[0]) <= room
    )
    return islice(fitting, config.num_problems)


async def _label_all(
    model: Model, labeler: Labeler, config: LabelConfig, file: LabelFile, progress: OnProgress
) -> None:
    waiting = ((index, problem) for index, problem in fitting_problems(model, config) if index not in file.done)
    finished, spent = len(file.done), 0

    async def work() -> None:
        nonlocal finished, spent
        for index, problem in waiting:  # shared: each takes the next one
            found = await label_one(model, labeler, config, index, problem)
            file.append(found)
            finished, spent = finished + 1, spent + found.tokens
            progress(finished, config.num_problems, f"{spent:,} tokens")

    progress(finished, config.num_problems, "starting")
    async with asyncio.TaskGroup() as group:
        for _ in range(config.concurrency):
            group.create_task(work())


async def label_one(
    model: Model, labeler: Labeler, config: LabelConfig, index: int, problem: Problem
) -> LabelledProblem:
    """Label one problem, with random numbers of its own."""
    sampling = Sampling(temperature=config.temperature, seed=step_seed(config.seed, index))
    lm = model.session(sampling=sampling)
    question = ask(problem, chat=model.loaded.tokenizer.chat_template is not None)
    async with await lm.root(question.prompt) as root:
        lines = await labeler.label(question, root)
    bill = lm.ledger.bill
    return LabelledProblem(index, problem, tuple(lines), bill.prefilled + bill.cached, bill.decoded)


def _run(work: Any) -> None:
    """Run a coroutine; of a group of errors, the first is raised."""
    try:
        asyncio.run(work)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
