"""Constraints: uniqueness against trying all arrangements and against an SMT solver; the step oracle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain, permutations, product

import pytest

from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks.constraints import KINDS, Constraints
from outthink.tasks.oracle import follows
from outthink.tasks.problem import Problem
from outthink.tasks.puzzle_proof import solutions_by_z3
from outthink.tasks.puzzle_text import read_puzzle
from solution_sets import check_oracle, check_problem, check_rerendering

constraints = Constraints()

World = dict[str, int]

# What each clue means, by its words: houses are numbers, guests are 1 where they come.
MEANINGS: dict[str, Callable[[World, tuple[str, ...]], bool]] = {
    r"(\w+) at (\d)": lambda w, p: w[p[0]] == int(p[1]),
    r"(\w+) not at (\d)": lambda w, p: w[p[0]] != int(p[1]),
    r"(\w+) with (\w+)": lambda w, p: w[p[0]] == w[p[1]],
    r"(\w+) not with (\w+)": lambda w, p: w[p[0]] != w[p[1]],
    r"(\w+) left of (\w+)": lambda w, p: w[p[0]] < w[p[1]],
    r"(\w+) just left of (\w+)": lambda w, p: w[p[1]] - w[p[0]] == 1,
    r"(\w+) next to (\w+)": lambda w, p: w[p[1]] - w[p[0]] in (1, -1),
    r"(\w+) comes": lambda w, p: w[p[0]] == 1,
    r"(\w+) stays": lambda w, p: w[p[0]] == 0,
    r"(\w+) or (\w+) comes": lambda w, p: w[p[0]] + w[p[1]] >= 1,
    r"(\w+) or (\w+) stays": lambda w, p: w[p[0]] + w[p[1]] <= 1,
    r"just one of (\w+) and (\w+) comes": lambda w, p: w[p[0]] + w[p[1]] == 1,
    r"if (\w+) comes then (\w+) comes": lambda w, p: w[p[0]] <= w[p[1]],
    r"(\w+) or (\w+) or (\w+) comes": lambda w, p: sum(w[q] for q in p) >= 1,
    r"if (\w+) and (\w+) come then (\w+) comes": lambda w, p: (w[p[0]], w[p[1]], w[p[2]]) != (1, 1, 0),
    r"if (\w+) and (\w+) come then (\w+) stays": lambda w, p: sum(w[q] for q in p) <= 2,
}


def all_worlds(prompt: str) -> Iterator[World]:
    head = prompt.split("\n")[0].rstrip(".")
    if head.startswith("guests "):
        words = head.split()[1:]
        for values in product((0, 1), repeat=len(words)):
            yield dict(zip(words, values, strict=True))
        return
    groups = [group.split() for group in head.split(". ")[1].split(", ")]
    for orders in product(*(permutations(range(1, len(group) + 1)) for group in groups)):
        places = chain.from_iterable(orders)
        yield dict(zip(chain.from_iterable(groups), places, strict=True))


def solutions(prompt: str, without: int | None = None) -> list[World]:
    """All arrangements in which every clue holds, save for the one numbered ``without``."""
    clues = prompt.split("\n")[1].rstrip(".").split(". ")
    tests = []
    for place, clue in enumerate(clues):
        found = [(holds, match.groups()) for form, holds in MEANINGS.items() if (match := re.fullmatch(form, clue))]
        assert len(found) == 1, clue
        if place != without:
            tests += found
    return [world for world in all_worlds(prompt) if all(holds(world, places) for holds, places in tests)]


def small(seed: int, kind: str, **dials: float) -> Problem:
    sizes = {"houses": 2 + seed % 2, "groups": 1 + seed % 3, "guests": 2 + seed % 5}
    return constraints.build(seed, (seed % 6) / 5, kind=kind, **{**sizes, **dials})


def stated(problem: Problem) -> World:
    """The arrangement that the gold steps state."""
    values = {"comes": 1, "stays": 0, **{str(house): house for house in range(9)}}
    return {word: values[value] for word, value in map(str.split, problem.steps)}


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_solution_by_brute_force(kind: str) -> None:
    for seed in range(30):
        problem = small(seed, kind)
        assert solutions(problem.prompt) == [stated(problem)], problem.prompt


@pytest.mark.parametrize("kind", KINDS)
def test_every_clue_is_needed(kind: str) -> None:
    for seed in range(15):
        problem = small(seed, kind, spare=0)
        for clue in range(problem.prompt.count(". ", problem.prompt.index("\n")) + 1):
            assert len(solutions(problem.prompt, without=clue)) > 1
    spare = [small(seed, kind, spare=3).prompt for seed in range(5)]
    assert any(len(solutions(prompt, without=clue)) == 1 for prompt in spare for clue in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_solution_by_z3(kind: str) -> None:
    for seed in range(12):
        problem = constraints.build(seed, seed / 11, kind=kind)
        puzzle = read_puzzle(problem.prompt)
        assert puzzle is not None
        assert solutions_by_z3(puzzle) == [problem.data["solution"]]
    large = constraints.build(1, 1.0, kind=kind, houses=5, groups=3, guests=14)
    puzzle = read_puzzle(large.prompt)
    assert puzzle is not None and solutions_by_z3(puzzle) == [large.data["solution"]]


def test_z3_finds_several_solutions_where_there_are_several() -> None:
    prompt = "houses 1-3. red blue tan.\nred left of tan.\nwho is where?"
    puzzle = read_puzzle(prompt)
    assert puzzle is not None and puzzle.solve() is None
    assert len(solutions_by_z3(puzzle, 9)) == len(solutions(prompt)) == 3


def right_answers(problem: Problem) -> set[str]:
    """All renderings of the solution by brute force, words of a house or guests in any order."""
    (world,) = solutions(problem.prompt)
    if problem.prompt.startswith("guests"):
        come = [word for word, comes in world.items() if comes]
        return {" ".join(order) for order in permutations(come)} if come else {"nobody"}
    houses = [[word for word, at in world.items() if at == house] for house in sorted(set(world.values()))]
    return {", ".join(map(" ".join, orders)) for orders in product(*map(permutations, houses))}


def test_checker_accepts_exactly_the_solution() -> None:
    for seed in range(24):
        problem = small(seed, KINDS[seed % 2], houses=3, groups=2, guests=4)
        right = right_answers(problem)
        assert problem.answer in right and all(constraints.check(problem, answer) for answer in right)
        words = problem.prompt.split("\n")[0].rstrip(".").replace(",", "").split()[-4:]
        swaps = (problem.answer.replace(a, "*").replace(b, a).replace("*", b) for a, b in permutations(words, 2))
        for answer in ("", "nobody", problem.answer + " zed", problem.answer.split()[0], *swaps):
            assert constraints.check(problem, answer) == (answer in right), answer


def accepted_solutions(problem: Problem) -> list[str]:
    (world,) = solutions(problem.prompt)
    values = ["stays", "comes"] if problem.prompt.startswith("guests") else [str(house) for house in range(9)]
    lines = [f"{word} {values[value]}" for word, value in world.items()]
    return ["\n".join([*order, f"answer: {problem.answer}"]) for order in permutations(lines)]


def test_oracle_accepts_exactly_the_true_lines() -> None:
    for seed in range(8):
        problem = constraints.build(seed, 0.3, kind=KINDS[seed % 2], houses=2, groups=2, guests=4)
        check_oracle(
            lambda partial, problem=problem: constraints.extendable(problem, partial), accepted_solutions(problem)
        )


def test_an_oracle_that_trusts_single_clues_is_caught() -> None:
    """It accepts every value that no clue about that word alone forbids."""
    prompt = "guests ann bob cy.\nann comes. if ann comes then bob comes. bob or cy stays.\nwho comes?"
    problem = constraints.read(prompt)
    assert problem is not None and problem.answer == "ann bob"

    def moves(left: frozenset[str]) -> Iterator[tuple[str, frozenset[str] | None]]:
        for word in left:
            yield f"{word} comes", left - {word}
            if word != "ann":
                yield f"{word} stays", left - {word}
        if not left:
            yield "answer: ann bob", None

    with pytest.raises(AssertionError, match="oracle says True"):
        check_oracle(
            lambda partial: follows(partial, frozenset(["ann", "bob", "cy"]), moves), accepted_solutions(problem)
        )


@pytest.mark.parametrize("difficulty", [0.0, 0.3, 0.6, 1.0])
def test_gold_solutions_pass(difficulty: float) -> None:
    for seed in range(10):
        problem = constraints.generate(seed, difficulty)
        check_problem(constraints, problem)
        check_rerendering(constraints, problem, range(3))


def test_gold_steps_need_few_clues() -> None:
    """Told in the worst order, the steps still follow a chain of single clues."""
    clues = "blue just left of tan. tan just left of pink. red just left of blue. red at 1."
    problem = constraints.read(f"houses 1-4. red blue tan pink.\n{clues}\nwho is where?")
    assert problem is not None and problem.steps == ("red 1", "blue 2", "tan 3", "pink 4")


def test_canonical_form_tells_puzzles_apart() -> None:
    told = {
        "base": "houses 1-2. ann bob, red tan.\nann left of bob. ann with red.\nwho is where?",
        "renamed": "houses 1-2. gold mint, cat dog.\ndog with gold. gold left of mint.\nwho is where?",
        "relation": "houses 1-2. ann bob, red tan.\nann just left of bob. ann with red.\nwho is where?",
        "order": "houses 1-2. ann bob, red tan.\nann left of bob. bob with red.\nwho is where?",
        "place": "houses 1-2. ann bob, red tan.\nann at 1. ann with red.\nwho is where?",
        "other place": "houses 1-2. ann bob, red tan.\nann at 2. ann with red.\nwho is where?",
        "guests": "guests ann bob.\nann comes. ann or bob stays.\nwho comes?",
        "guests renamed": "guests ned hal.\nned or hal stays. hal comes.\nwho comes?",
        "stays": "guests ann bob.\nann stays. ann or bob comes.\nwho comes?",
    }
    forms = {key: problem.canonical for key, prompt in told.items() if (problem := constraints.read(prompt))}
    assert len(forms) == len(told) and len(set(forms.values())) == len(told) - 2
    assert forms["base"] == forms["renamed"] and forms["guests"] == forms["guests renamed"]


def test_foreign_prompts_are_not_read() -> None:
    for prompt in (
        "",
        "houses 1-2. red tan.\nred at 3.\nwho is where?",  # no such house
        "houses 1-2. red tan.\nred next to tan.\nwho is where?",  # two solutions
        "houses 1-2. red tan.\nred at 1. red at 2.\nwho is where?",  # none
        "houses 1-2. red tan, cat.\nred at 1.\nwho is where?",
        "houses 1-2. red red.\nred at 1.\nwho is where?",
        "houses 1-2. red tan.\nred at 1. dog at 2.\nwho is where?",
        "houses 1-9. a b c d e f g h i, k l m n o p q r s.\na at 1.\nwho is where?",  # too large to count
        "guests ann bob.\nann sings.\nwho comes?",
        "guests ann bob.\nann or ann comes.\nwho comes?",
    ):
        assert constraints.read(prompt) is None


def test_dials() -> None:
    sizes = [sum(len(constraints.generate(seed, d).prompt) for seed in range(80)) for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes)
    with pytest.raises(TaskError, match="worlds: at most 2 million"):
        constraints.build(1, houses=6, groups=3)
    with pytest.raises(UnknownNameError, match="kind of puzzle 'house'"):
        constraints.build(1, kind="house")
    with pytest.raises(TaskError, match="Unknown dial 'rooms'"):
        constraints.build(1, rooms=3)
