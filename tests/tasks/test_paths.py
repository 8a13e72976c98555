"""Paths: the checker and the step oracle against an enumeration of all paths; what makes a problem hard."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest

from outthink.core.errors import TaskError
from outthink.tasks.oracle import follows
from outthink.tasks.paths import Paths
from outthink.tasks.problem import Problem
from solution_sets import check_oracle, check_problem, check_rerendering

paths = Paths()


def graph(problem: Problem) -> tuple[str, str, list[tuple[str, str]]]:
    """Start, goal and edges, read from the prompt by position."""
    question, told = problem.prompt.split("\n")
    _, _, start, _, goal = question.split(" ")
    return start, goal, [(edge[0], edge[2]) for edge in told.split(" ")[1:]]


def all_walks(edges: list[tuple[str, str]], walk: list[str]) -> Iterator[list[str]]:
    yield walk
    for source, target in edges:
        if source == walk[-1]:
            yield from all_walks(edges, [*walk, target])


def accepted_solutions(problem: Problem) -> list[str]:
    """One text for each path from start to goal, found by walking everywhere."""
    start, goal, edges = graph(problem)
    solutions = []
    for walk in all_walks(edges, [start]):
        if walk[-1] == goal:
            lines = [
                f"{here}: {' '.join(target for source, target in edges if source == here)} > {there}"
                for here, there in pairwise(walk)
            ]
            solutions.append("\n".join([*lines, "answer: " + " > ".join(walk)]))
    return solutions


@pytest.mark.parametrize("difficulty", [0.0, 0.3, 0.6, 1.0])
def test_gold_solutions_pass(difficulty: float) -> None:
    for seed in range(15):
        problem = paths.generate(seed, difficulty)
        check_problem(paths, problem)
        assert problem.solution in accepted_solutions(problem)


def test_checker_accepts_exactly_the_paths() -> None:
    for seed in range(10):
        problem = paths.build(seed, 0.3, hops=3, width=3, branch=2)
        start, goal, edges = graph(problem)
        nodes = sorted({node for edge in edges for node in edge})
        for walk in all_walks(edges, [start]):
            assert paths.check(problem, " > ".join(walk)) == (walk[-1] == goal)
            for node in nodes:  # one node replaced, so that edges are missing
                for place in range(len(walk)):
                    other = [*walk[:place], node, *walk[place + 1 :]]
                    right = (other[0], other[-1]) == (start, goal) and set(pairwise(other)) <= set(edges)
                    assert paths.check(problem, ">".join(other)) == right
    assert not paths.check(problem, "") and not paths.check(problem, f"{start} {goal}")


def test_oracle_accepts_exactly_the_paths() -> None:
    for seed in range(12):
        problem = paths.build(seed, 0.3, hops=3, width=2.5, branch=1.7)
        solutions = accepted_solutions(problem)
        check_oracle(lambda partial, problem=problem: paths.extendable(problem, partial), solutions)


def test_an_oracle_that_ignores_reachability_is_caught() -> None:
    problem = paths.build(4, 0.5, hops=4, width=3, branch=2)
    start, goal, edges = graph(problem)

    def moves(walk: list[str]) -> Iterator[tuple[str, list[str] | None]]:
        after = [target for source, target in edges if source == walk[-1]]
        for node in after:
            yield f"{walk[-1]}: {' '.join(after)} > {node}", [*walk, node]
        if walk[-1] == goal:
            yield "answer: " + " > ".join(walk), None

    with pytest.raises(AssertionError, match="oracle says True"):
        check_oracle(lambda partial: follows(partial, [start], moves), accepted_solutions(problem))


def test_rerendering_keeps_the_problem() -> None:
    for seed in range(8):
        check_rerendering(paths, paths.generate(seed, seed / 7), range(4))


def test_foreign_prompts_are_not_read() -> None:
    for prompt in (
        "",
        "path from a to b",
        "path from a to b\nedges a>c",  # no path
        "path from a to a\nedges a>c",
        "path from a to b\nedges a>b a>b",  # an edge told twice
        "path from a to b\nedges a>c c>a a>b",  # a cycle
        "path from a to b\nedges a>b\n",
    ):
        assert paths.read(prompt) is None
    free = paths.read("path from a to d\nedges b>d a>b a>d c>a")  # paths of unequal length are fine
    assert free is not None and paths.check(free, "a > d") and paths.check(free, "a > b > d")
    check_problem(paths, free)


def chance(problem: Problem) -> Fraction:
    """The chance that a walk which takes every turn at random arrives."""
    start, goal, edges = graph(problem)
    total = Fraction(0)
    for walk in all_walks(edges, [start]):
        if walk[-1] == goal:
            share = Fraction(1)
            for here in walk[:-1]:
                share /= sum(source == here for source, _ in edges)
            total += share
    return total


def test_random_turns_fail_more_often_as_difficulty_grows() -> None:
    means = [float(sum(chance(paths.generate(seed, d)) for seed in range(60)) / 60) for d in (0.0, 0.5, 1.0)]
    assert means[0] > means[1] > means[2] and means[0] > 0.5 and means[2] < 0.4
    sizes = [sum(len(paths.generate(seed, d).prompt) for seed in range(60)) for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes)


def test_dials() -> None:
    long = paths.build(1, 0.5, hops=30, width=3)
    assert len(long.steps) == 30
    check_problem(paths, long)
    with pytest.raises(TaskError, match="Dial 'hops'"):
        paths.build(1, 0.5, hops=0)
    with pytest.raises(TaskError, match="Unknown dial 'nodes'"):
        paths.build(1, 0.5, nodes=3)
