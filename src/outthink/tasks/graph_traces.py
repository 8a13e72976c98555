"""Traces of breadth-first search and of Dijkstra's algorithm on small undirected graphs.

No line depends on the order of the edge list: sets of nodes are written in alphabetical order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from string import ascii_lowercase

from outthink.tasks.canonical import canonical_form
from outthink.tasks.dials import shuffled
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER
from outthink.tasks.traces import Data, Trace

START, GOAL, OTHER = 0, 1, 2  # colours of the canonical form
PAIRS = tuple(map("".join, product(ascii_lowercase, repeat=2)))
EXTRA = 0.4  # edges beyond a spanning tree, per node
NEAR, FAR = 3, 5  # how far back a tree edge and a further edge may lead: start and goal come to lie far apart
HEAVIEST = 9

Neighbours = Mapping[str, Sequence[tuple[str, int]]]
Open = Mapping[str, int]  # nodes reached but not settled, with their tentative distances


class _OnGraph:
    """What both share: a connected graph, drawn as a random tree and some more edges; every weight is 1 for bfs."""

    title: str
    heaviest: int
    told: re.Pattern[str]

    def draw(self, rng: random.Random, items: int) -> Data:
        names = rng.sample(ascii_lowercase if items <= len(ascii_lowercase) else PAIRS, items)
        pairs = {(max(0, node - 1 - int(rng.random() * NEAR)), node) for node in range(1, items)}
        for _ in range(round(items * EXTRA)):
            node = 1 + int(rng.random() * (items - 1))
            pairs.add((max(0, node - 1 - int(rng.random() * FAR)), node))
        edges = [
            [names[one], names[other], 1 + int(rng.random() * self.heaviest)]
            for one, other in shuffled(rng, sorted(pairs))
        ]
        return {"start": names[0], "goal": names[-1], "edges": edges}

    def read(self, text: str) -> Data | None:
        match = self.told.fullmatch(text)
        if match is None:
            return None
        start, goal, told = match.groups()
        edges = []
        for edge in told.split(" "):
            pair, _, weight = edge.partition(":")
            edges.append([*pair.split("-"), int(weight or 1)])
        data = {"start": start, "goal": goal, "edges": edges}
        sound = len({frozenset(edge[:2]) for edge in edges}) == len(edges) and all(edge[0] != edge[1] for edge in edges)
        reached = {node for level in _levels(_neighbours(data), start) for node in level}
        usable = sound and start != goal and {start, goal, *(node for edge in edges for node in edge[:2])} == reached
        return data if usable and self.tell(data) == text else None

    def tell(self, data: Data) -> str:
        raise NotImplementedError

    def canonical(self, data: Data) -> str:
        number = {data["start"]: START, data["goal"]: GOAL}
        edges = []
        for one, other, weight in data["edges"]:
            first, second = number.setdefault(one, len(number)), number.setdefault(other, len(number))
            edges += [(first, second, weight), (second, first, weight)]
        return canonical_form([START, GOAL] + [OTHER] * (len(number) - 2), edges)

    def retell(self, rng: random.Random, data: Data) -> Data:
        nodes = sorted({node for edge in data["edges"] for node in edge[:2]})
        names = rng.sample(ascii_lowercase if len(nodes) <= len(ascii_lowercase) else PAIRS, len(nodes))
        renamed = dict(zip(nodes, names, strict=True))
        edges = [[renamed[one], renamed[other], weight] for one, other, weight in shuffled(rng, data["edges"])]
        return {"start": renamed[data["start"]], "goal": renamed[data["goal"]], "edges": edges}


class BreadthFirst(_OnGraph):
    """A line ``distance: nodes`` for each distance from the start, up to that of the goal, which is the answer."""

    title, fewest, most, heaviest = "bfs", 4, 14, 1
    told = re.compile(r"bfs from ([a-z]+) to ([a-z]+)\n([a-z]+-[a-z]+(?: [a-z]+-[a-z]+)*)")

    def tell(self, data: Data) -> str:
        return f"bfs from {data['start']} to {data['goal']}\n" + " ".join([f"{a}-{b}" for a, b, _ in data["edges"]])

    def trace(self, data: Data) -> Trace:
        steps = []
        for distance, level in enumerate(_levels(_neighbours(data), data["start"])):
            steps.append(f"{distance}: {' '.join(sorted(level))}")
            if data["goal"] in level:
                break
        return steps, str(len(steps) - 1)


class Dijkstra(_OnGraph):
    """A line ``node distance: open nodes with tentative distances`` for each node settled; the goal comes last.

    Of several nodes at the smallest distance any may be settled first; the gold trace takes the first in the alphabet.
    """

    title, fewest, most, heaviest = "dijkstra", 3, 9, HEAVIEST
    told = re.compile(r"dijkstra from ([a-z]+) to ([a-z]+)\n([a-z]+-[a-z]+:\d+(?: [a-z]+-[a-z]+:\d+)*)")

    def tell(self, data: Data) -> str:
        edges = " ".join([f"{one}-{other}:{weight}" for one, other, weight in data["edges"]])
        return f"dijkstra from {data['start']} to {data['goal']}\n{edges}"

    def trace(self, data: Data) -> Trace:
        moves = _settling(_neighbours(data), data["goal"])
        steps: list[str] = []
        state: tuple[Open, frozenset[str]] | None = ({data["start"]: 0}, frozenset())
        while state is not None:
            line, state = next(moves(state))
            steps.append(line)
        return steps[:-1], steps[-1].removeprefix(ANSWER)

    def extendable(self, data: Data, partial: str) -> bool:
        return follows(partial, ({data["start"]: 0}, frozenset()), _settling(_neighbours(data), data["goal"]))


def _settling(neighbours: Neighbours, goal: str):
    """The moves of Dijkstra's algorithm: each settles one of the open nodes at the smallest tentative distance."""

    def moves(state: tuple[Open, frozenset[str]]) -> Iterator[tuple[str, tuple[Open, frozenset[str]] | None]]:
        reached, settled = state
        if goal in settled:
            yield f"{ANSWER}{reached[goal]}", None
            return
        nearest = min(reached.values())
        for node in sorted(node for node, distance in reached.items() if distance == nearest):
            if node == goal:
                yield f"{goal} {nearest}", ({goal: nearest}, settled | {goal})
                continue
            after = {other: distance for other, distance in reached.items() if other != node}
            for other, weight in neighbours[node]:
                if other not in settled:
                    after[other] = min(after.get(other, nearest + weight), nearest + weight)
            told = " ".join([f"{other} {after[other]}" for other in sorted(after)])
            yield f"{node} {nearest}: {told}", (after, settled | {node})

    return moves


def _neighbours(data: Data) -> Neighbours:
    around: dict[str, list[tuple[str, int]]] = {}
    for one, other, weight in data["edges"]:
        around.setdefault(one, []).append((other, weight))
        around.setdefault(other, []).append((one, weight))
    return around


def _levels(neighbours: Neighbours, start: str) -> Iterator[set[str]]:
    """The sets of nodes at distance 0, 1, 2, ... from ``start``, counted in edges."""
    seen, level = {start}, {start}
    while level:
        yield level
        level = {other for node in level for other, _ in neighbours.get(node, ())} - seen
        seen |= level
