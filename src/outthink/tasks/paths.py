"""Paths: walk from one node of a directed acyclic graph to another, given the shuffled list of its edges.

The graph has layers, and edges lead from each layer into the next; the goal is one node of the last layer. Every walk
has the same length, and most wrong turns show only at its end: choosing right means looking ahead. Any path to the
goal is a right answer.

Accepted steps: a line ``a: b c > c`` stands at node a, lists all nodes that edges from a lead to, in the order of the
edge list, and goes to one of them from which the goal can still be reached. At the goal comes the answer, which
repeats the walk.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from string import ascii_lowercase

from outthink.tasks.canonical import canonical_form
from outthink.tasks.dials import linear, override, shuffled, some, whole, within
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for

PROMPT = re.compile(r"path from ([a-z]+) to ([a-z]+)\nedges ([a-z]+>[a-z]+(?: [a-z]+>[a-z]+)*)")
PAIRS = tuple(map("".join, product(ascii_lowercase, repeat=2)))
START, GOAL, OTHER = 0, 1, 2  # colours of the canonical form

Edges = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class PathsDials:
    """``hops``: edges of every path; ``width``: nodes per layer; ``branch``: edges out of a node.

    Fractions are rounded by chance, each layer and node by itself. Difficulty 0..1 gives 2.4..6 hops, width 2.7..4 and
    branch 1.6..2.2: from about 8 to about 45 edges.
    """

    hops: float
    width: float
    branch: float

    def __post_init__(self) -> None:
        within("hops", self.hops, 1, 60)
        within("width", self.width, 1, 10)
        within("branch", self.branch, 1, 10)

    @staticmethod
    def at(difficulty: float) -> PathsDials:
        """The dials of a difficulty in 0..1."""
        return PathsDials(linear(2.4, 6, difficulty), linear(2.7, 4, difficulty), linear(1.6, 2.2, difficulty))


class Paths:
    """A path between two nodes of a layered DAG; the dials are PathsDials."""

    name = "paths"
    summary = "Find a path between two nodes of a directed acyclic graph."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, hops=9)``."""
        settings = override(PathsDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        layers, edges = _draw_graph(rng, settings)
        num_nodes = layers[-1][-1] + 1
        names = _draw_names(rng, num_nodes)
        named = [(names[source], names[target]) for source, target in shuffled(rng, edges)]
        return self._problem(named, names[0], names[layers[-1][0]], seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        nodes = [node.strip() for node in answer.split(">")]
        edges = {(source, target) for source, target in problem.data["edges"]}
        ends = nodes[0] == problem.data["start"] and nodes[-1] == problem.data["goal"]
        return ends and all(edge in edges for edge in pairwise(nodes))

    def extendable(self, problem: Problem, partial: str) -> bool:
        goal, edges = problem.data["goal"], problem.data["edges"]
        after, useful = _successors(edges), _reaching(edges, goal)

        def moves(walk: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
            if walk[-1] == goal:
                yield ANSWER + " > ".join(walk), None
                return
            choices = after.get(walk[-1], [])
            for node in choices:
                if node in useful:
                    yield f"{walk[-1]}: {' '.join(choices)} > {node}", (*walk, node)

        return follows(partial, (problem.data["start"],), moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        nodes = list(dict.fromkeys(node for edge in problem.data["edges"] for node in edge))
        renamed = dict(zip(nodes, _draw_names(rng, len(nodes)), strict=True))
        edges = [(renamed[source], renamed[target]) for source, target in problem.data["edges"]]
        start, goal = renamed[problem.data["start"]], renamed[problem.data["goal"]]
        return self._problem(shuffled(rng, edges), start, goal, problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a prompt whose edges make an acyclic graph with a path from start to goal, else None."""
        match = PROMPT.fullmatch(prompt)
        if match is None:
            return None
        start, goal = match[1], match[2]
        edges = [(source, target) for source, target in (edge.split(">") for edge in match[3].split(" "))]
        if len(set(edges)) < len(edges) or start == goal or start not in _reaching(edges, goal) or _has_cycle(edges):
            return None
        return self._problem(edges, start, goal, 0, 0.0)

    def _problem(self, edges: Edges, start: str, goal: str, seed: int, difficulty: float) -> Problem:
        after, useful = _successors(edges), _reaching(edges, goal)
        walk, steps = [start], []
        while walk[-1] != goal:
            choices = after[walk[-1]]
            node = next(node for node in choices if node in useful)
            steps.append(f"{walk[-1]}: {' '.join(choices)} > {node}")
            walk.append(node)
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=f"path from {start} to {goal}\nedges " + " ".join([f"{a}>{b}" for a, b in edges]),
            steps=tuple(steps),
            answer=" > ".join(walk),
            canonical=_canonical(edges, start, goal),
            data={"start": start, "goal": goal, "edges": [list(edge) for edge in edges]},
        )


def _draw_graph(rng: random.Random, dials: PathsDials) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Layers of node numbers, the start first; the first nodes of the layers form a path, the last of them the goal."""
    layers, num_nodes = [[0]], 1
    for _ in range(whole(rng, dials.hops)):
        width = whole(rng, dials.width)
        layers.append(list(range(num_nodes, num_nodes + width)))
        num_nodes += width
    edges = []
    for layer, following in pairwise(layers):
        for position, node in enumerate(layer):
            out = min(whole(rng, dials.branch), len(following))
            planned = following[:1] if position == 0 else []
            targets = planned + some(rng, following[len(planned) :], out - len(planned))
            edges += [(node, target) for target in targets]
    used = {node for edge in edges for node in edge}
    number = {node: position for position, node in enumerate(sorted(used))}
    layers = [[number[node] for node in layer if node in used] for layer in layers]
    return layers, [(number[source], number[target]) for source, target in edges]


def _draw_names(rng: random.Random, count: int) -> list[str]:
    return some(rng, ascii_lowercase if count <= len(ascii_lowercase) else PAIRS, count)


def _successors(edges: Edges) -> Mapping[str, list[str]]:
    after: dict[str, list[str]] = {}
    for source, target in edges:
        after.setdefault(source, []).append(target)
    return after


def _reaching(edges: Edges, goal: str) -> set[str]:
    """The nodes from which ``goal`` can be reached, itself among them."""
    before: dict[str, list[str]] = {}
    for source, target in edges:
        before.setdefault(target, []).append(source)
    found, pending = {goal}, [goal]
    while pending:
        for node in before.get(pending.pop(), ()):
            if node not in found:
                found.add(node)
                pending.append(node)
    return found


def _has_cycle(edges: Edges) -> bool:
    after = _successors(edges)
    left = {node for edge in edges for node in edge}
    while ends := {node for node in left if not left.intersection(after.get(node, ()))}:
        left -= ends
    return bool(left)


def _canonical(edges: Edges, start: str, goal: str) -> str:
    number = {start: START, goal: GOAL}
    numbered = []
    for source, target in edges:
        numbered.append((number.setdefault(source, len(number)), number.setdefault(target, len(number)), 0))
    return canonical_form([START, GOAL] + [OTHER] * (len(number) - 2), numbered)
