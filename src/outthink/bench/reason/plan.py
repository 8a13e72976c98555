"""What is to be measured: the ground, the cells of the table, and the problems of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from outthink.core.budget import Budget
from outthink.core.errors import UserError
from outthink.core.sampling import Sampling
from outthink.reason.scale import scale_of, strategies_named
from outthink.tasks.problem import Problem, check_difficulty
from outthink.tasks.suites import get_suite

Progress = Callable[[float, float, str], None]
"""Called with (done, total, what): how far the work has come, in any unit."""


@dataclass(frozen=True)
class ModelSource:
    """A model by the ``label`` that it has in tables, and the ``source`` it is loaded from."""

    label: str
    source: str

    @classmethod
    def of(cls, text: str) -> ModelSource:
        """``LABEL=SOURCE``, or a source that is its own label. Raises UserError where one of the two is empty."""
        label, equals, source = text.partition("=")
        if not label.strip() or (equals and not source.strip()):
            raise UserError(f"Cannot read model {text!r}: write a source, or LABEL=SOURCE such as 'S=runs/s/model'.")
        return cls(label.strip(), (source or label).strip())


@dataclass(frozen=True, kw_only=True)
class Problems:
    """``num_problems`` fresh problems of the test split of every suite at every difficulty (0..1; without any: over the
    suite's whole range), answered with lines drawn at ``temperature``. Of one problem all strategies have the same
    random numbers.
    """

    suites: tuple[str, ...] = ("outthink-core",)
    difficulties: tuple[float, ...] = ()
    num_problems: int = 100
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_problems < 1:
            raise UserError(f"{self.num_problems} problems: there must be at least 1.")
        for name, values in (("suite", self.suites), ("difficulty", self.difficulties)):
            if len(set(values)) < len(values):
                raise UserError(f"A {name} is named twice: {', '.join(map(str, values))}.")
        for difficulty in self.difficulties:
            check_difficulty(difficulty)
        for suite in self.suites:
            get_suite(suite)
        Sampling(temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class GroundConfig(Problems):
    """Every strategy with every verifier that it can use, for every model, on every budget."""

    models: tuple[ModelSource, ...]
    strategies: tuple[str, ...]
    budgets: tuple[Budget, ...]
    verifiers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.models)
        check_budgets(self.budgets)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        models = {model.label: model.source for model in self.models}
        return {**asdict(self), "models": models, "budgets": [str(budget) for budget in self.budgets]}


@dataclass(frozen=True)
class Cell:
    """One model, one strategy, one verifier (None: it asks none, or its own default), one budget."""

    model: str
    strategy: str
    verifier: str | None
    budget: Budget

    @property
    def key(self) -> tuple[str, str, str | None, str]:
        """What tells it from all other cells, as plain values."""
        return self.model, self.strategy, self.verifier, str(self.budget)


@dataclass(frozen=True, eq=False)
class Group:
    """The problems of one suite at one difficulty (None: over its whole range)."""

    suite: str
    difficulty: float | None
    problems: tuple[Problem, ...]


def check_labels(models: Sequence[ModelSource]) -> None:
    """Raise UserError where there are no models, or two under one label."""
    if not models or len({model.label for model in models}) < len(models):
        raise UserError("Name one model or more, each under a label of its own (LABEL=SOURCE).")


def check_budgets(budgets: Sequence[Budget]) -> str:
    """What these budgets limit: ``tokens``, ``seconds`` or ``flops``.

    Raises UserError unless each limits one thing, all the same, above 0, and no two are equal.
    """
    units = {unit for budget in budgets for unit in ("tokens", "seconds", "flops") if getattr(budget, unit) is not None}
    if (
        len(units) != 1
        or len(set(budgets)) < len(budgets)
        or any(not sum(filter(None, vars(b).values())) for b in budgets)
    ):
        told = "; ".join(map(str, budgets)) or "none"
        raise UserError(
            f"Budgets {told}: give one or more different ones above 0 of one unit, such as '500,1k,2k' (tokens), "
            "'1 gflops,4 gflops' or '1 s,5 s'."
        )
    return units.pop()


def cells_of(model: str, strategies: Sequence[str], verifiers: Sequence[str], budgets: Sequence[Budget]) -> list[Cell]:
    """Every strategy with every verifier, or with none where it asks none, at every budget."""
    return [
        Cell(model, strategy, verifier, budget)
        for strategy in strategies_named(strategies)
        for verifier in (verifiers if scale_of(strategy).verifier and verifiers else (None,))
        for budget in budgets
    ]


def draw_groups(config: Problems, progress: Progress = lambda *_: None) -> list[Group]:
    """The problems of every group; of equal configurations the same, and of a larger number the first ones the same."""
    groups: list[Group] = []
    total = len(config.suites) * max(1, len(config.difficulties)) * config.num_problems

    def found(number: int) -> None:
        progress(len(groups) * config.num_problems + number, total, "drawing problems")

    for name, difficulty in _kinds(config):
        suite = get_suite(name)
        if difficulty is not None:
            suite = replace(suite, easiest=difficulty, hardest=difficulty)
        problems = suite.sample("test", config.num_problems, config.seed, found)
        groups.append(Group(name, difficulty, tuple(problems)))
    return groups


def _kinds(config: Problems) -> Iterator[tuple[str, float | None]]:
    for suite in config.suites:
        yield from ((suite, difficulty) for difficulty in (config.difficulties or (None,)))
