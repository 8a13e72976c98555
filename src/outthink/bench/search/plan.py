"""What is measured, and the records that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outthink.bench.engine.driver import Driver, RunnerError
from outthink.bench.engine.runners import READY
from outthink.core.errors import CapabilityError, UserError
from outthink.kernels.cpu.extension import usable_cores

Json = dict[str, Any]
Say = Callable[[str], None]
OURS = "outthink"
DRIVERS = Path(__file__).parent / "drivers"
ENVIRONMENTS = ("its-hub", "genlm-control", "treequest")


@dataclass(frozen=True)
class SearchConfig:
    """``rounds`` of every work by everybody, after one that is not counted. ``branches``: live ones of each search.

    ``quick``: small sizes, to see that everything works. Raises UserError for values out of range.
    """

    model: str | None = None
    rounds: int = 5
    branches: tuple[int, ...] = (16, 64)
    difficulty: float = 0.5
    quick: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"{self.rounds} rounds: there must be at least 1.")
        for branches in self.branches:
            if branches < 8 or branches % 8:
                raise UserError(f"{branches} branches: the number must be a multiple of 8, so that beams divide it.")

    def to_json(self) -> Json:
        """All fields as plain JSON values."""
        return {**asdict(self), "branches": list(self.branches)}


@dataclass(frozen=True)
class Way:
    """One way of doing ``works``. ``run`` does one of them, with random numbers and problems of its own for each seed,
    and tells what it took: ``seconds``, and other figures by name. ``once``: it is the same in every round.
    """

    name: str
    works: tuple[str, ...]
    run: Callable[[str, int], Json]
    once: bool = False


@dataclass
class Ground:
    """Where ways are opened: what is ``opened`` on ``stack`` is closed with it; ``missing`` says who could not be."""

    config: SearchConfig
    directory: Path
    stack: ExitStack
    missing: dict[str, str]
    told: dict[str, Json]
    say: Say

    def driver(self, name: str, script: str, environment: str, **request: Any) -> Driver | None:
        """A program of another environment with its ``load`` answered; None, with the reason noted, where it fails."""
        try:
            driver, told = self.open(script, environment_python(environment, self.directory), **request)
        except (CapabilityError, RunnerError) as error:
            self.missing[name] = str(error)
            return None
        self.told[name] = told
        return driver

    def open(self, script: str, python: Path, **request: Any) -> tuple[Driver, Json]:
        """Start one of `DRIVERS` under ``python``, and what it tells of itself. Raises RunnerError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"run-{Path(script).stem}.log"
        driver = self.stack.enter_context(Driver(python, DRIVERS / script, log, usable_cores()))
        return driver, driver.ask(op="load", **request)


@dataclass(frozen=True)
class Part:
    """One comparison: ``open`` makes its ways, ours first."""

    name: str
    title: str
    open: Callable[[Ground], list[Way]]


def environment_python(environment: str, directory: Path) -> Path:
    """The interpreter of an environment. Raises CapabilityError where it has not been set up."""
    place = directory / environment
    if not (place / READY).is_file():
        raise CapabilityError(f"No environment in {place}; make it with 'outthink bench search --set-up'.")
    return place / "bin" / "python"


def turned(ways: Sequence[Way], by: int) -> list[Way]:
    """Another one first in every round, so that none always comes after the same."""
    by %= max(len(ways), 1)
    return [*ways[by:], *ways[:by]]
