"""A canonical form of small coloured graphs: equal for two graphs exactly when they are isomorphic.

Colours are refined by the colours of the neighbours until nothing changes (McKay and Piperno, Practical graph
isomorphism II, 2014). Where nodes stay equal, one of them is singled out, each in turn, and the smallest of the
resulting texts is taken; nodes with the very same neighbours are interchangeable and need no such trial, and a trial
that runs into a text seen before is cut, for the two are then mirror images.

The text states the whole graph, so equal texts always mean isomorphic graphs. Colours are residues modulo a prime:
should two of them collide by chance, nodes only stay equal for longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRIME = 1_073_741_789  # the largest below 2**30: residues fit one digit of a Python integer, which makes them fast
OWN, OUT, IN, OFFSET, SINGLED = 668_265_263, 374_761_393, 907_133_923, 463_522_219, 734_892_089

Edge = tuple[int, int, int]
Leaf = tuple[list[int], str]


@dataclass(frozen=True)
class _Graph:
    colours: Sequence[int]
    edges: Sequence[Edge]
    weighted: Sequence[tuple[int, int, int, int]]  # source, target and the label's factors along and against the edge


def canonical_form(colours: Sequence[int], edges: Sequence[Edge]) -> str:
    """The canonical text of a directed graph whose node i has the colour ``colours[i]``, a small integer >= 0.

    An edge is (source, target, label) with an integer label >= 0; an undirected edge is given once each way.
    Exact at any size; time is about linear where refinement tells all nodes apart, which it nearly always does.
    """
    weighted = [
        (source, target, (label + 2) * OUT % PRIME, (label + 2) * IN % PRIME) for source, target, label in edges
    ]
    graph = _Graph(colours, edges, weighted)
    mixed = {colour: pow((colour + 1) * OWN, 2, PRIME) for colour in set(colours)}
    start = [mixed[colour] for colour in colours]
    return _smallest(graph, _refine(graph, start))[1]


def _refine(graph: _Graph, colour: list[int]) -> list[int]:
    """The coarsest stable colouring that is finer than ``colour``."""
    num_nodes, classes = len(colour), len(set(colour))
    while classes < num_nodes:
        total = [own * OWN + OFFSET for own in colour]
        for source, target, along, against in graph.weighted:
            total[source] += colour[target] * along
            total[target] += colour[source] * against
        # A sum over neighbours is a linear map; the square keeps the next round from being one too.
        colour = [value % PRIME for value in total]
        colour = [value * value % PRIME for value in colour]
        found = len(set(colour))
        if found == classes:
            break
        classes = found
    return colour


def _smallest(graph: _Graph, colour: list[int]) -> Leaf:
    cell = _open_cell(graph, colour)
    if not cell:
        return _leaf(graph, colour)
    best = _smallest(graph, _single_out(graph, colour, cell[0]))
    seen = [best]
    for node in cell[1:]:
        split = _single_out(graph, colour, node)
        if _first_leaf(graph, split) not in seen:
            seen.append(_smallest(graph, split))
            best = min(best, seen[-1])
    return best


def _first_leaf(graph: _Graph, colour: list[int]) -> Leaf:
    while cell := _open_cell(graph, colour):
        colour = _single_out(graph, colour, cell[0])
    return _leaf(graph, colour)


def _single_out(graph: _Graph, colour: list[int], node: int) -> list[int]:
    split = list(colour)
    split[node] = (split[node] * SINGLED + OFFSET) % PRIME
    return _refine(graph, split)


def _open_cell(graph: _Graph, colour: list[int]) -> list[int]:
    """The nodes of the first class that has several members which are not all interchangeable; else none."""
    if len(set(colour)) == len(colour):
        return []
    cells: dict[int, list[int]] = {}
    for node, own in enumerate(colour):
        cells.setdefault(own, []).append(node)
    around: dict[int, list[Edge]] = {node: [] for cell in cells.values() if len(cell) > 1 for node in cell}
    for source, target, label in graph.edges:
        if source in around:
            around[source].append((0, target, label))
        if target in around:
            around[target].append((1, source, label))
    for _, cell in sorted(cells.items()):
        if len(cell) > 1 and any(sorted(around[node]) != sorted(around[cell[0]]) for node in cell[1:]):
            return cell
    return []


def _leaf(graph: _Graph, colour: list[int]) -> Leaf:
    """The final colours in order and the text of the graph with its nodes numbered in that order.

    The colours take part in comparisons, so that two equal leaves differ by an automorphism that respects every choice.
    """
    order = sorted(range(len(colour)), key=colour.__getitem__)
    size = len(order)
    place = [0] * size
    for position, node in enumerate(order):
        place[node] = position
    # One integer an edge: label, source and target as digits in base `size`, the number of nodes.
    edges = sorted([(label * size + place[source]) * size + place[target] for source, target, label in graph.edges])
    text = f"{'.'.join([str(graph.colours[node]) for node in order])}|{' '.join(map(str, edges))}"
    return [colour[node] for node in order], text
