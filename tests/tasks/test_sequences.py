"""Sequences: the language against Python, rules against a search over coefficients, the oracle against enumeration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.errors import TaskError
from outthink.tasks.problem import Problem
from outthink.tasks.programs import order, parse_program, run_program
from outthink.tasks.rules import CONSTANT, SUPPORTS, Rule, determined_rules, show_rule, show_term, simplest_rules
from outthink.tasks.sequences import HIDDEN, LEVELS, Sequences
from solution_sets import check_oracle

sequences = Sequences()
BEFORE = ((7, -5), (0, 1), (-12, 30))
TOKENS = ("n", "a", "b", " mod ", "+", "*", "-", "2", "3", "(", ")")


def value(text: str, n: int, a: int, b: int) -> int:
    return eval(text.replace("mod", "%"), {"n": n, "a": a, "b": b})


def run(text: str, terms: Sequence[int], count: int) -> list[int]:
    """``count`` terms by Python's own evaluation, those that cannot be computed taken from ``terms``."""
    found = list(terms[: 2 if "b" in text else 1 if re.search("a", text) else 0])
    while len(found) < count:
        before = [0, 0, *found]
        found.append(value(text, len(found) + 1, before[-1], before[-2]))
    return found


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=300)
@given(st.text("0129nab+-*() ", max_size=16) | st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
def test_programs_are_read_as_python_reads_them(text: str) -> None:
    program = parse_program(text)
    python = re.sub(r"\d+", lambda number: str(int(number[0])), text.replace("mod", "%").strip())
    joined = re.search(r"[0-9nab)]\s*\(|[nab]\s*[0-9nab]|[0-9]\s*[nab]", python)
    if joined or re.search(r"\*\s*\*|(?:^|[-+*%(])\s*\+", python):  # calls, names, powers, unary plus
        assert program is None
        return
    try:
        expected = [eval(python, {"n": 3, "a": a, "b": b}) for a, b in BEFORE]
    except (SyntaxError, TypeError):
        assert program is None
        return
    except ZeroDivisionError:
        return
    if not all(isinstance(term, int) for term in expected) or re.search(r"% *[-(nab]", python):
        return  # () is a tuple in Python; a modulus that may be below 1
    assert program is not None
    for (a, b), term in zip(BEFORE, expected, strict=True):
        terms = run_program(("+", program, ("*", 0, "b")), [b, a], 3)
        assert terms == [b, a, term]


def test_programs_run_within_bounds() -> None:
    def terms(text: str, first: Sequence[int], count: int) -> list[int] | None:
        program = parse_program(text)
        assert program is not None, text
        return run_program(program, first, count)

    assert terms("a + b", [1, 1], 8) == [1, 1, 2, 3, 5, 8, 13, 21]
    assert terms("n*n - 1", [], 4) == [0, 3, 8, 15]
    assert terms("a + 3 - 4*(n mod 2)", [5], 5) == [5, 8, 7, 10, 9]
    assert terms("-7 mod 3", [], 1) == [2] and terms("2 - 3 - 4", [], 1) == [-5] and terms("--3", [], 1) == [3]
    assert terms("a*a", [9], 9) is None and terms("n mod 0", [], 1) is None and terms("n mod -2", [], 1) is None
    for text in ("", "n +", "c", "n n", "2n", "n ** 2", "(n", "n / 2", "n; n", "n" + " + n" * 60, "(" * 100, "1" * 16):
        assert parse_program(text) is None, text
    assert order(parse_program("n*(2 - b)") or 0) == 2 and order(parse_program("a") or 0) == 1 and order(5) == 0


def columns(terms: Sequence[int], support: Sequence[str]) -> list[list[Fraction]]:
    first = 2 if "b" in support else 1 if "a" in support else 0
    rows = []
    for index in range(first, len(terms)):
        before = [0, 0, *terms[:index]]
        rows.append([Fraction(value(kind, index + 1, before[-1], before[-2])) for kind in support])
    return rows


def rank(rows: list[list[Fraction]]) -> int:
    rows, found = [list(row) for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((row for row in rows[found:] if row[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows = [*rows[:found], pivot, *rows[found:]]
        for row in rows[found + 1 :]:
            factor = row[column] / pivot[column]
            row[:] = [x - factor * y for x, y in zip(row, pivot, strict=True)]
        found += 1
    return found


@pytest.mark.parametrize(
    "terms",
    [
        (5, 8, 11, 14, 17, 20, 23, 26, 29),
        (1, 1, 2, 3, 5, 8, 13, 21, 34),
        (2, 5, 11, 23, 47, 95, 191, 383, 767),
        (4, 1, 4, 1, 4, 1, 4, 1, 4),
        (0, 2, 6, 12, 20, 30, 42, 56, 72),
        (3, 4, 1, 2, -1, 0, -3, -2, -5),
        (7, 7, 7, 7, 7, 7, 7, 7, 7),
        (1, -2, 4, -8, 16, -32, 64, -128, 256),
        (2, 7, 1, 8, 2, 8, 1, 8, 2),
    ],
)
def test_determined_rules_are_those_a_search_finds(terms: tuple[int, ...]) -> None:
    """All coefficients from -4 to 4 are tried for every set of up to three kinds."""
    small = [c for c in range(-4, 5) if c]
    expected: set[Rule] = set()
    for support in (support for support in SUPPORTS if len(support) <= 3):
        rows = columns(terms, support)
        if rank(rows) < len(support):
            continue
        shown = terms[len(terms) - len(rows) :]
        for chosen in product(small, repeat=len(support)):
            if all(
                sum(c * x for c, x in zip(chosen, row, strict=True)) == term
                for row, term in zip(rows, shown, strict=True)
            ):
                expected.add(tuple(zip(support, chosen, strict=True)))
    found = determined_rules(terms)
    assert {rule for rule in found if len(rule) <= 3 and all(abs(c) <= 4 for _, c in rule)} == expected
    for rule in found:
        assert run(show_rule(rule), terms, len(terms)) == list(terms)


def accepted_solutions(problem: Problem) -> set[str]:
    shown = problem.data["shown"]
    solutions = set()
    for rule in determined_rules((*shown, *problem.data["hidden"])):
        for peeled in permutations([term for term in rule if term[0] != CONSTANT]):
            lines, left = [], list(enumerate(shown))
            for place, term in enumerate(peeled):
                kinds = {kind for kind, _ in peeled[: place + 1]}
                left = left[max(0, (2 if "b" in kinds else 1 if "a" in kinds else 0) - len(shown) + len(left)) :]
                before = [0, 0, *shown]
                text = show_term(term)
                left = [(i, rest - value(text, i + 1, before[i + 1], before[i])) for i, rest in left]
                lines.append(f"less {text}: {' '.join(str(rest) for _, rest in left)}")
            solutions.add("\n".join([*lines, f"answer: {show_rule(rule)}"]))
    return solutions


def test_the_oracle_accepts_exactly_the_rules_taken_off_in_any_order() -> None:
    tried = 0
    for seed in range(40):
        problem = sequences.generate(seed, (seed % 4) / 3)
        solutions = accepted_solutions(problem)
        assert problem.solution in solutions
        for solution in solutions:
            assert sequences.check(problem, solution.split("answer: ")[1])
        if tried < 5 and 1 < len(solutions) < 7:
            check_oracle(lambda partial, problem=problem: sequences.extendable(problem, partial), solutions)
            tried += 1
    assert tried == 5


def test_an_oracle_that_knows_only_gold_is_caught() -> None:
    problem = sequences.generate(2, 0.5)
    with pytest.raises(AssertionError, match="rejected"):
        check_oracle(lambda partial: f"{problem.solution}\n".startswith(partial), accepted_solutions(problem))


def test_hidden_terms_go_on_by_the_answer() -> None:
    for seed in range(200):
        problem = sequences.generate(seed, (seed % 11) / 10)
        shown, hidden = problem.data["shown"], problem.data["hidden"]
        assert len(hidden) == HIDDEN and problem.prompt == "sequence " + " ".join(map(str, shown))
        assert run(problem.answer, shown, len(shown) + HIDDEN) == [*shown, *hidden]


def test_any_program_that_agrees_on_hidden_terms_is_right() -> None:
    problem = sequences.read("2, 5, 8, 11, 14")
    assert problem is not None and problem.answer == "3*n - 1" and problem.data["hidden"] == [17, 20, 23, 26, 29, 32]
    for answer in ("3*n - 1", "a + 3", "2*a - b", "n + n + n - 1", "(a + 3)*1 + 0*b", "2*a - 3*n + 7"):
        assert problem.check(answer), answer
    fitted = "3*n - 1 + (n-1)*(n-2)*(n-3)*(n-4)*(n-5)"
    assert run(fitted, [], 5) == [2, 5, 8, 11, 14] and not problem.check(fitted)  # right on what is shown only
    for answer in ("17", "a + 2", "3*n", "3n - 1", "", "a +", "x", "a" * 500, "3*n - 1 = 17"):
        assert not problem.check(answer), answer


def test_simplest_rules() -> None:
    def simplest(*terms: int) -> list[str]:
        return [show_rule(rule) for rule in simplest_rules(terms)]

    assert simplest(5, 8, 11, 14, 17) == ["3*n + 2"]
    assert simplest(1, 2, 4, 8, 16) == ["2*a"]
    assert simplest(1, 1, 2, 3, 5, 8, 13) == ["a + b"]
    assert simplest(9, 1, 9, 1, 9, 1) == ["8*(n mod 2) + 1"]
    assert simplest(3, 1, 4, 1, 5, 9, 2, 6) == []


def test_texts_without_a_rule_are_not_read() -> None:
    for text in (
        "1 2 3",
        "sequence 3 1 4 1 5 9 2 6",
        "5 5 5 5 5",
        "sequence",
        "sequence a b c d",
        "1 2 3 4 five",
        "1, 2, 3, 99999999",
    ):
        assert sequences.read(text) is None, text
    problem = sequences.read("what comes next: 1, 4, 9, 16, 25, ...")
    assert problem is not None and problem.answer == "n*n"


def test_dials() -> None:
    for seed in range(20):
        problem = sequences.build(seed, 0.0, level=3, shown=12, size=9)
        assert len(problem.data["shown"]) == 12
        assert sequences.build(seed, 0.5, level=0).answer.count("n") == 1
    assert len(LEVELS) == 4
    with pytest.raises(TaskError, match="Dial 'shown' is 3"):
        sequences.build(1, 0.5, shown=3)
