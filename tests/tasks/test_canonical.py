"""The canonical form against isomorphism decided by trying all permutations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import permutations, product

import pytest

from outthink.tasks.canonical import Edge, canonical_form

Graph = tuple[list[int], list[Edge]]


def isomorphic(one: Graph, other: Graph) -> bool:
    colours, edges = one
    if sorted(colours) != sorted(other[0]) or len(edges) != len(other[1]):
        return False
    return any(
        all(colours[node] == other[0][image] for node, image in enumerate(order))
        and sorted((order[s], order[t], label) for s, t, label in edges) == sorted(other[1])
        for order in permutations(range(len(colours)))
    )


def relabelled(graph: Graph, rng: random.Random) -> Graph:
    colours, edges = graph
    order = rng.sample(range(len(colours)), len(colours))
    moved = [0] * len(colours)
    for node, image in enumerate(order):
        moved[image] = colours[node]
    return moved, rng.sample([(order[s], order[t], label) for s, t, label in edges], len(edges))


def undirected(num_nodes: int, pairs: Sequence[tuple[int, int]]) -> Graph:
    return [0] * num_nodes, [edge for a, b in pairs for edge in ((a, b, 0), (b, a, 0))]


def check_form(form: Callable[[Sequence[int], Sequence[Edge]], str], graphs: Sequence[Graph]) -> None:
    """Forms are equal exactly for isomorphic pairs of ``graphs``."""
    for one, other in product(graphs, graphs):
        assert (form(*one) == form(*other)) == isomorphic(one, other), (one, other)


def small_graphs() -> list[Graph]:
    """Random graphs of four nodes with two colours and labels, and regular ones that refinement cannot split."""
    rng = random.Random(5)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    graphs: list[Graph] = []
    for _ in range(40):
        edges = [(a, b, rng.randrange(2)) for a, b in rng.sample(pairs, rng.randrange(1, 6))]
        graphs.append(([rng.randrange(2) for _ in range(4)], edges))
    graphs += [relabelled(graph, rng) for graph in graphs[:12]]
    ring, triangles = [(i, (i + 1) % 6) for i in range(6)], [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    prism, k33 = [*triangles, (0, 3), (1, 4), (2, 5)], [(a, b) for a in range(3) for b in range(3, 6)]
    regular = [undirected(6, pairs) for pairs in (ring, triangles, prism, k33)]
    return graphs + regular + [relabelled(graph, rng) for graph in regular]


def test_equal_exactly_for_isomorphic_graphs() -> None:
    check_form(canonical_form, small_graphs())


def test_forms_without_trial_of_equal_nodes_are_caught() -> None:
    def degrees_only(colours: Sequence[int], edges: Sequence[Edge]) -> str:
        return str(
            sorted(
                (c, sum(s == i for s, _, _ in edges), sum(t == i for _, t, _ in edges)) for i, c in enumerate(colours)
            )
        )

    def first_come(colours: Sequence[int], edges: Sequence[Edge]) -> str:
        return str((list(colours), sorted(edges)))

    for broken in (degrees_only, first_come):
        with pytest.raises(AssertionError):
            check_form(broken, small_graphs())


def test_invariant_on_large_symmetric_graphs() -> None:
    rng = random.Random(7)
    cube = undirected(16, [(node, node ^ bit) for node in range(16) for bit in (1, 2, 4, 8) if node < node ^ bit])
    rings = undirected(25, [(5 * k + i, 5 * k + (i + 1) % 5) for k in range(5) for i in range(5)])
    spokes = [(i, i + 5) for i in range(5)]
    petersen = undirected(
        10, [(i, (i + 1) % 5) for i in range(5)] + spokes + [(5 + i, 5 + (i + 2) % 5) for i in range(5)]
    )
    prism = undirected(10, [(i, (i + 1) % 5) for i in range(5)] + spokes + [(5 + i, 5 + (i + 1) % 5) for i in range(5)])
    for graph in (cube, rings, petersen, prism):
        forms = {canonical_form(*relabelled(graph, rng)) for _ in range(8)}
        assert forms == {canonical_form(*graph)}
    assert canonical_form(*petersen) != canonical_form(*prism)
