"""Algorithms: every trace against another way to compute the same, and the step oracle against the allowed traces."""

from __future__ import annotations

from functools import cache
from itertools import combinations, permutations

import pytest

from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks.algorithms import NAMES, Algorithms
from outthink.tasks.oracle import begins
from outthink.tasks.problem import Problem
from solution_sets import check_oracle, check_problem, check_rerendering

algorithms = Algorithms()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_gold_solutions_pass(name: str, difficulty: float) -> None:
    for seed in range(6):
        problem = algorithms.build(seed, difficulty, algorithm=name)
        check_problem(algorithms, problem)
        check_rerendering(algorithms, problem, range(3))


def problems(name: str, count: int = 25, **dials: float) -> list[Problem]:
    return [algorithms.build(seed, (seed % 5) / 4, algorithm=name, **dials) for seed in range(count)]


def test_insertion_sort() -> None:
    for problem in problems("sort"):
        numbers = [int(word) for word in problem.prompt.split("\n")[1].split()]
        states = [sorted(numbers[: done + 1]) + numbers[done + 1 :] for done in range(1, len(numbers))]
        assert problem.steps == tuple(" ".join(map(str, state)) for state in states)
        assert problem.answer == " ".join(map(str, sorted(numbers)))
        assert algorithms.check(problem, problem.answer.replace(" ", ", "))
        assert not algorithms.check(problem, " ".join(map(str, numbers[::-1]))) or numbers[::-1] == sorted(numbers)


def test_binary_search() -> None:
    absent = 0
    for problem in problems("search", 60):
        question, told = problem.prompt.split("\n")
        sought = int(question.split()[-1])
        numbers = [int(word.split(":")[1]) for word in told.split()]
        assert numbers == sorted(numbers)
        assert problem.answer == (str(numbers.index(sought)) if sought in numbers else "none")
        absent += sought not in numbers
        span = len(numbers)
        for step in problem.steps:
            bounds, probe, sign = step.split()
            low, high = map(int, bounds.split("-"))
            middle, number = map(int, probe.split(":"))
            assert high - low + 1 <= span and middle == (low + high) // 2 and numbers[middle] == number
            assert all(value > sought for value in numbers[high + 1 :]) and all(
                value < sought for value in numbers[:low]
            )
            assert {"<": number < sought, ">": number > sought, "=": number == sought}[sign]
            span = (high - low + 1) // 2
    assert 0 < absent < 30


def test_longest_increasing_subsequence() -> None:
    for problem in problems("lis", items=8):
        numbers = [int(word) for word in problem.prompt.split("\n")[1].split()]
        for place, step in enumerate(problem.steps):
            ending = [
                size + 1
                for size in range(place + 1)
                for chosen in combinations(numbers[:place], size)
                if list(chosen) == sorted(set(chosen)) and (not chosen or chosen[-1] < numbers[place])
            ]
            assert step == f"{numbers[place]}: {max(ending)}"
        assert int(problem.answer) == max(int(step.split()[-1]) for step in problem.steps)


def test_edit_distance() -> None:
    @cache
    def distance(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        changed = distance(one[1:], other[1:]) + (one[0] != other[0])
        return min(changed, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)

    for problem in problems("edit"):
        one, other = problem.prompt.split("\n")[1].split()
        assert int(problem.answer) == distance(one, other)
        for place, step in enumerate(problem.steps):
            row = [distance(one[:place], other[:column]) for column in range(len(other) + 1)]
            assert step == f"{one[place - 1] if place else '-'}: {' '.join(map(str, row))}"


def distances(problem: Problem) -> dict[tuple[str, str], int]:
    """All shortest distances, by relaxing over every middle node (Floyd and Warshall)."""
    weights = {}
    for edge in problem.prompt.split("\n")[1].split():
        pair, _, weight = edge.partition(":")
        one, other = pair.split("-")
        weights[one, other] = weights[other, one] = int(weight or 1)
    nodes = sorted({node for pair in weights for node in pair})
    best = {(a, b): 0 if a == b else weights.get((a, b), 10**6) for a in nodes for b in nodes}
    for middle in nodes:
        for a in nodes:
            for b in nodes:
                best[a, b] = min(best[a, b], best[a, middle] + best[middle, b])
    return best


def ends(problem: Problem) -> tuple[str, str]:
    words = problem.prompt.split("\n")[0].split()
    return words[2], words[4]


def test_breadth_first_search() -> None:
    for problem in problems("bfs"):
        best, (start, goal) = distances(problem), ends(problem)
        assert int(problem.answer) == best[start, goal]
        for depth, step in enumerate(problem.steps):
            assert step == f"{depth}: " + " ".join(sorted(b for (a, b), d in best.items() if a == start and d == depth))
        assert len(problem.steps) == best[start, goal] + 1


def accepted_dijkstra(problem: Problem) -> list[str]:
    """Every trace in which nodes are settled in order of their true distance, the goal last."""
    best, (start, goal) = distances(problem), ends(problem)
    weights = {}
    for edge in problem.prompt.split("\n")[1].split():
        pair, weight = edge.split(":")
        one, other = pair.split("-")
        weights[one, other] = weights[other, one] = int(weight)
    others = sorted({node for node, _ in best} - {start, goal})
    solutions = []
    for count in range(len(others) + 1):
        for middle in permutations(others, count):
            order = [start, *middle, goal]
            far = [best[start, node] for node in order]
            left_out = [best[start, node] for node in others if node not in middle]
            if far != sorted(far) or min(left_out, default=far[-1]) < far[-1]:
                continue
            lines = []
            for done, node in enumerate(order[:-1], 1):
                settled, reached = order[:done], {}
                for (one, other), weight in weights.items():
                    if one in settled and other not in settled:
                        reached[other] = min(reached.get(other, 10**6), best[start, one] + weight)
                lines.append(f"{node} {best[start, node]}: " + " ".join(f"{k} {v}" for k, v in sorted(reached.items())))
            solutions.append("\n".join([*lines, f"{goal} {far[-1]}", f"answer: {far[-1]}"]))
    return solutions


def test_dijkstra_accepts_exactly_the_orders_of_distance() -> None:
    several = 0
    for problem in problems("dijkstra", 25, items=6):
        solutions = accepted_dijkstra(problem)
        several += len(solutions) > 1
        check_oracle(lambda partial, problem=problem: algorithms.extendable(problem, partial), solutions)
    assert several > 2  # some problems have ties, or the test would show nothing about them


def test_an_oracle_that_knows_one_tie_break_is_caught() -> None:
    tied = next(problem for problem in problems("dijkstra", 25, items=6) if len(accepted_dijkstra(problem)) > 1)
    with pytest.raises(AssertionError, match="rejected"):
        check_oracle(lambda partial: begins(partial, tied.solution), accepted_dijkstra(tied))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dijkstra"])
def test_other_traces_are_the_only_accepted_ones(name: str) -> None:
    for problem in problems(name, 4):
        check_oracle(lambda partial, problem=problem: algorithms.extendable(problem, partial), [problem.solution])


def test_canonical_forms_ignore_names_and_nothing_else() -> None:
    told = {
        "a": "edit distance\nabca bb",
        "b": "edit distance\nxyzx yy",  # the same with other letters
        "c": "edit distance\nabca bc",
        "d": "bfs from a to c\na-b b-c",
        "e": "bfs from z to x\ny-x y-z",  # the same path
        "f": "bfs from a to b\na-b b-c",
        "g": "dijkstra from a to c\na-b:1 b-c:2",
        "h": "dijkstra from q to r\ns-r:2 s-q:1",
        "i": "dijkstra from a to c\na-b:2 b-c:1",
        "j": "insertion sort\n1 2",
        "k": "insertion sort\n1, 2",
        "l": "insertion sort\n2 1",
    }
    forms = {key: problem.canonical for key, prompt in told.items() if (problem := algorithms.read(prompt))}
    assert len(forms) == len(told)
    same = {frozenset("ab"), frozenset("de"), frozenset("gh"), frozenset("jk")}
    for one, other in combinations(told, 2):
        assert (forms[one] == forms[other]) == (frozenset((one, other)) in same)


def test_foreign_prompts_are_not_read() -> None:
    for prompt in (
        "insertion sort",
        "insertion sort\n1 2,3",
        "insertion sort\n01 2",
        "binary search for 5\n0:3 1:2",  # not sorted
        "binary search for 5\n0:3 2:4",  # an index left out
        "edit distance\nab",
        "bfs from a to b\na-b b-a",  # an edge told twice
        "bfs from a to b\na-c b-d",  # not connected
        "bfs from a to a\na-c",
        "dijkstra from a to b\na-b",
        "dijkstra from a to b\na-b:03",
        "quick sort\n3 1 2",
    ):
        assert algorithms.read(prompt) is None


def test_dials() -> None:
    sizes = [
        sum(len(algorithms.generate(seed, d).solution) for seed in range(120)) for d in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert sizes == sorted(sizes)
    assert {algorithms.generate(seed, 0.5).data["algorithm"] for seed in range(60)} == set(NAMES)
    assert len(algorithms.build(1, algorithm="sort", items=40).steps) == 39
    check_problem(algorithms, algorithms.build(1, algorithm="bfs", items=40))
    check_problem(algorithms, algorithms.build(1, algorithm="search", items=100))
    with pytest.raises(UnknownNameError, match="Did you mean 'sort'"):
        algorithms.build(1, algorithm="sorts")
    with pytest.raises(TaskError, match="Dial 'items' is 1"):
        algorithms.build(1, items=1)
