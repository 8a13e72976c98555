"""Arithmetic: values against Python's, the oracle and the canonical form against enumeration, the dials."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.errors import TaskError
from outthink.tasks.arithmetic import Arithmetic
from outthink.tasks.expression import MAX_OPERATIONS, exact_value, normal_form, parse_tree, show_tree
from outthink.tasks.problem import Problem
from solution_sets import check_oracle

arithmetic = Arithmetic()
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def nested(node: ast.expr):
    """The expression as Python reads it, in nested lists."""
    if isinstance(node, ast.BinOp):
        return [SIGNS[type(node.op)], nested(node.left), nested(node.right)]
    return ast.literal_eval(node)


def read_prompt(problem: Problem):
    match = re.fullmatch(r"compute (?:\((.*)\) mod (\d+)|(.*))", problem.prompt)
    assert match is not None
    return nested(ast.parse(match[1] or match[3], mode="eval").body), int(match[2]) if match[2] else None


def orders(tree) -> Iterator[tuple[list[str], int]]:
    """All lists of lines that reduce ``tree``, and its value."""
    if isinstance(tree, int):
        yield [], tree
        return
    sign, left, right = tree
    for (first, a), (second, b) in product(orders(left), orders(right)):
        value = APPLY[sign](a, b)
        for woven in interleaved(first, second):
            for x, y in {(a, b), (b, a)} if sign != "-" else {(a, b)}:
                yield [*woven, f"{x} {sign} {y} = {value}"], value


def interleaved(first: list[str], second: list[str]) -> Iterator[list[str]]:
    if not first or not second:
        yield [*first, *second]
        return
    for rest in interleaved(first[1:], second):
        yield [first[0], *rest]
    for rest in interleaved(first, second[1:]):
        yield [second[0], *rest]


def accepted_solutions(problem: Problem) -> set[str]:
    tree, modulus = read_prompt(problem)
    solutions = set()
    for lines, value in orders(tree):
        residue = [] if modulus is None else [f"{value} mod {modulus} = {value % modulus}"]
        answer = value if modulus is None else value % modulus
        solutions.add("\n".join([*lines, *residue, f"answer: {answer}"]))
    return solutions


@pytest.mark.parametrize("modular", [0, 1])
@pytest.mark.parametrize("operations", [1, 2, 3])
def test_the_oracle_accepts_exactly_the_orders_of_reduction(operations: int, modular: int) -> None:
    for seed in range(6):
        problem = arithmetic.build(seed, 0.6, operations=operations, modular=modular, digits=1)
        solutions = accepted_solutions(problem)
        assert problem.solution in solutions
        check_oracle(lambda partial, problem=problem: arithmetic.extendable(problem, partial), solutions)


EQUAL_PARTS = "(3 - 4) * 2 - (3 - 4) * 5"


def test_equal_parts_are_told_apart() -> None:
    """After ``3 - 4 = -1`` either bracket may be the one that is done: all continuations of both are accepted."""
    problem = arithmetic.read(EQUAL_PARTS)
    assert problem is not None
    check_oracle(lambda partial: arithmetic.extendable(problem, partial), accepted_solutions(problem))
    assert arithmetic.extendable(problem, "3 - 4 = -1\n-1 * 5 = -5\n3 - 4 = -1\n-1 * 2 = -2\n-2 - -5 = 3\nanswer: 3\n")
    assert not arithmetic.extendable(problem, "3 - 4 = -1\n-1 * 5 = -5\n-1 * 2")


def test_an_oracle_that_knows_one_of_two_equal_parts_is_caught() -> None:
    problem = arithmetic.read(EQUAL_PARTS)
    assert problem is not None
    solutions = accepted_solutions(problem)
    known = [text for text in solutions if text.startswith(("3 - 4 = -1\n-1 * 2", "3 - 4 = -1\n3"))]
    with pytest.raises(AssertionError, match="rejected"):
        check_oracle(lambda partial: any(f"{text}\n".startswith(partial) for text in known), solutions)


def test_answers_are_those_of_python() -> None:
    for seed in range(300):
        problem = arithmetic.generate(seed, (seed % 11) / 10)
        expression = problem.prompt.removeprefix("compute ").replace("mod", "%")
        assert problem.answer == str(eval(expression))
        for step in problem.steps:
            left, right = step.replace("mod", "%").split(" = ")
            assert eval(left) == int(right)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=300)
@given(st.text("0123456789+-*() ", max_size=24))
def test_expressions_are_read_as_python_reads_them(text: str) -> None:
    tree = parse_tree(text)
    plain = re.sub(r"\d+", lambda number: str(int(number[0])), text.strip())
    try:
        expected = (
            eval(plain)
            if not re.search(r"\*\s*\*|(?:^|[-+*(])\s*\+|-\s*-\s*-|^\s*-\s*-|[*(+]\s*-\s*-", plain)
            else None
        )
    except (SyntaxError, TypeError):
        expected = None
    if not isinstance(expected, int):  # Python's () is a tuple
        expected = None
    assert (None if tree is None else exact_value(tree)) == expected
    if tree is not None:
        assert parse_tree(show_tree(tree)) == tree


def shapes(leaves: tuple[int, ...]):
    """All trees over these leaves from left to right, with every choice of operators."""
    if len(leaves) == 1:
        yield leaves[0]
        return
    for cut in range(1, len(leaves)):
        for left, right in product(shapes(leaves[:cut]), shapes(leaves[cut:])):
            for sign in "+-*":
                yield sign, left, right


def rewritten(tree) -> Iterator:
    """Every tree that one rule of commuting or regrouping makes of ``tree``."""
    if isinstance(tree, int):
        return
    sign, left, right = tree
    yield from ((sign, other, right) for other in rewritten(left))
    yield from ((sign, left, other) for other in rewritten(right))
    if sign != "-":
        yield sign, right, left
    if isinstance(left, tuple):
        inner, a, b = left
        if inner == sign != "-":
            yield sign, a, (sign, b, right)
        if {inner, sign} == {"+", "-"} or inner == sign == "-":
            yield inner, (sign, a, right), b
    if isinstance(right, tuple):
        inner, b, c = right
        if sign == inner != "-":
            yield sign, (sign, left, b), c
        if sign == "+" and inner == "-":
            yield "-", ("+", left, b), c
        if sign == "-" and inner == "+":
            yield "-", ("-", left, b), c
        if sign == "-" and inner == "-":
            yield "+", ("-", left, b), c


def test_canonical_forms_are_the_classes_of_commuting_and_regrouping() -> None:
    trees = [tree for leaves in permutations((2, 3, 5, 7)) for tree in shapes(leaves)]
    group = {tree: tree for tree in trees}

    def root(tree):
        while group[tree] != tree:
            tree = group[tree]
        return tree

    for tree in trees:
        for other in rewritten(tree):
            group[root(tree)] = root(other)
    by_rules = {tree: root(tree) for tree in trees}
    pairs = {(by_rules[tree], normal_form(tree)) for tree in trees}
    assert len(pairs) == len(set(by_rules.values())) == len({form for _, form in pairs}) < len(trees) / 10


def test_typed_problems_are_read() -> None:
    def answer(prompt: str) -> str | None:
        problem = arithmetic.read(prompt)
        return None if problem is None else problem.answer

    assert (
        answer("compute (17 + 5) * 3 - 8") == answer("(17+5)*3-8 = ?") == answer("What is (17 plus 5) times 3 minus 8?")
    )
    assert answer("(17 + 5) * 3 - 8") == "58"
    assert answer("-(3+4)*2") == "-14" and answer("3 - -4") == "7" and answer("2 × 3 − 10") == "-4"
    assert answer("(17 + 5) mod 7") == answer("compute 22mod7") == "1"
    assert answer("(3 - 10) mod 4") == "1"
    for text in (
        "",
        "12",
        "hello",
        "3 +",
        "(3 + 4",
        "3 / 4",
        "3 + 4 mod 0",
        "17 + 5 mod 7",
        "3 ** 4",
        "()",
        "1" * 30 + " + 1",
        "x + 1",
    ):
        assert arithmetic.read(text) is None, text
    assert arithmetic.read("1" + "+1" * MAX_OPERATIONS) is not None
    assert arithmetic.read("1" + "+1" * (MAX_OPERATIONS + 1)) is None
    assert arithmetic.read("1+(" * 900 + "1" + ")" * 900) is None


def test_dials() -> None:
    for seed in range(30):
        problem = arithmetic.build(seed, 0.5, operations=5, digits=8, factor_digits=2, modular=0)
        numbers = re.findall(r"\d+", problem.prompt)
        assert len(numbers) == 6 and {len(number) for number in numbers} <= {2, 8} and len(problem.steps) == 5
        assert "*" not in arithmetic.build(seed, 0.5, times=0).prompt
        assert re.fullmatch(r"compute .* mod \d{3}", arithmetic.build(seed, 0.5, modular=1, modulus_digits=3).prompt)
        assert re.fullmatch(r"compute \d\d? \+ \d\d?", arithmetic.generate(seed, 0.0).prompt)
    for dials in ({"digits": 0}, {"operations": 1000}, {"plus": 0, "minus": 0, "times": 0}, {"modular": 2}):
        with pytest.raises(TaskError, match="Dial"):
            arithmetic.build(1, 0.5, **dials)
    with pytest.raises(TaskError, match=r"Unknown dial 'digit'.*operations, digits"):
        arithmetic.build(1, 0.5, digit=3)


def test_difficulty_grows_smoothly() -> None:
    """Mean number of steps and of characters over 400 problems rise at every fifth of the dial."""
    levels = [[arithmetic.generate(seed, level / 5) for seed in range(400)] for level in range(6)]
    steps = [sum(len(problem.steps) for problem in level) for level in levels]
    sizes = [sum(len(problem.solution) for problem in level) for level in levels]
    assert steps == sorted(set(steps)) and sizes == sorted(set(sizes))
    assert steps[0] == 400 and 6.5 < steps[-1] / 400 < 8
