"""Algorithms: carry out a named classic algorithm on a given input, every state written down (as in CLRS-Text).

Insertion sort, binary search, longest increasing subsequence, edit distance, breadth-first search, Dijkstra. What the
lines of each say is told at its class in ``traces`` and ``graph_traces``.

Accepted steps: the lines of the algorithm's trace, in order, then its answer. Only Dijkstra leaves a choice, between
nodes at the same distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outthink.core.errors import UnknownNameError
from outthink.tasks.dials import linear, override, whole, within
from outthink.tasks.graph_traces import BreadthFirst, Dijkstra
from outthink.tasks.oracle import begins
from outthink.tasks.problem import Problem, check_difficulty, rng_for
from outthink.tasks.traces import Algorithm, BinarySearch, Data, EditDistance, InsertionSort, LongestIncreasing

ALGORITHMS: Mapping[str, Algorithm] = {
    "sort": InsertionSort(),
    "search": BinarySearch(),
    "lis": LongestIncreasing(),
    "edit": EditDistance(),
    "bfs": BreadthFirst(),
    "dijkstra": Dijkstra(),
}
NAMES = tuple(ALGORITHMS)


@dataclass(frozen=True)
class AlgorithmsDials:
    """``algorithm``: a key of ALGORITHMS, or None for one drawn by chance; ``items``: numbers, letters or nodes.

    A fraction is rounded by chance. ``items`` None is what ``difficulty`` gives: a straight line from the algorithm's
    ``fewest`` to its ``most``, 3..10 numbers to sort, 4..24 to search, 3..14 for subsequences, strings of 2..8 letters,
    graphs of 4..14 nodes to search and 3..9 for Dijkstra.
    """

    algorithm: str | None = None
    items: float | None = None

    def __post_init__(self) -> None:
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise UnknownNameError("algorithm", self.algorithm, ALGORITHMS)
        if self.items is not None:
            within("items", self.items, 2, 200)


class Algorithms:
    """Traces of six classic algorithms; the dials are AlgorithmsDials."""

    name = "algorithms"
    summary = "Carry out a classic algorithm, one state a line."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: Any) -> Problem:
        """The problem of this seed with dials set by keyword, as in ``build(7, algorithm="bfs", items=20)``."""
        settings = override(AlgorithmsDials(), dials)
        rng = rng_for(self.name, seed, check_difficulty(difficulty))
        drawn = NAMES[int(rng.random() * len(NAMES))]
        which = settings.algorithm or drawn
        algorithm = ALGORITHMS[which]
        items = settings.items
        if items is None:
            items = linear(algorithm.fewest, algorithm.most, difficulty)
        return self._problem(which, algorithm.draw(rng, whole(rng, items)), seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether the words of ``answer`` are right; commas between the numbers of a list do not matter."""
        return answer.replace(",", " ").split() == problem.answer.split()

    def extendable(self, problem: Problem, partial: str) -> bool:
        algorithm = ALGORITHMS[problem.data["algorithm"]]
        if isinstance(algorithm, Dijkstra):
            return algorithm.extendable(problem.data, partial)
        return begins(partial, problem.solution)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """Letters and nodes renamed and edges shuffled, or the numbers of a list set apart by other marks."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        which = problem.data["algorithm"]
        data = {key: value for key, value in problem.data.items() if key != "algorithm"}
        return self._problem(which, ALGORITHMS[which].retell(rng, data), problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        for which, algorithm in ALGORITHMS.items():
            if prompt.startswith(algorithm.title) and (data := algorithm.read(prompt)) is not None:
                return self._problem(which, data, 0, 0.0)
        return None

    def _problem(self, which: str, data: Data, seed: int, difficulty: float) -> Problem:
        algorithm = ALGORITHMS[which]
        steps, answer = algorithm.trace(data)
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=algorithm.tell(data),
            steps=tuple(steps),
            answer=answer,
            canonical=f"{which} {algorithm.canonical(data)}",
            data={"algorithm": which, **data},
        )
