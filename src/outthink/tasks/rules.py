"""Rules of integer sequences in normal form, and all of them that a sequence determines.

A rule is a sum of KINDS with whole coefficients other than 0, such as ``2*a + n - 1``, in the order of KINDS; at most
MAX_TERMS of them and at most one of the form ``n mod m``. A sequence determines a rule where the rule holds at every
position and no other coefficients for the same kinds do. The cost of a rule is how many numbers describe the sequence
by it: its coefficients and the first terms that it has to be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

KINDS = ("a", "b", "n*n", "n", "(n mod 2)", "(n mod 3)", "(n mod 4)", "1")
CONSTANT, MAX_TERMS = "1", 4


def _cost(support: Sequence[str]) -> int:
    """How many numbers describe a sequence by a rule of these kinds: its coefficients and first terms."""
    return len(support) + _order(support)


def _order(support: Sequence[str]) -> int:
    return 2 if "b" in support else 1 if "a" in support else 0


# All sets of kinds that a rule may have, those of the lowest cost first.
SUPPORTS = sorted(
    (
        support
        for size in range(1, MAX_TERMS + 1)
        for support in combinations(KINDS, size)
        if sum(kind.startswith("(") for kind in support) <= 1
    ),
    key=_cost,
)

Term = tuple[str, int]
Rule = tuple[Term, ...]


def show_term(term: Term) -> str:
    """``2*a`` for ("a", 2); ``a``, ``-a`` and plain numbers where they are simpler."""
    kind, coefficient = term
    if kind == CONSTANT:
        return str(coefficient)
    return {1: "", -1: "-"}.get(coefficient, f"{coefficient}*") + kind


def show_rule(rule: Rule) -> str:
    """The program of ``rule``."""
    first, *others = rule
    text = show_term(first)
    for kind, coefficient in others:
        text += (" + " if coefficient > 0 else " - ") + show_term((kind, abs(coefficient)))
    return text


def rule_order(rule: Sequence[Term]) -> int:
    """How many first terms have to be given."""
    return _order([kind for kind, _ in rule])


def term_value(term: Term, terms: Sequence[int], index: int) -> int:
    """What ``term`` contributes at ``index`` of ``terms``, counted from 0."""
    kind, coefficient = term
    return coefficient * _kind_value(kind, terms, index)


def _kind_value(kind: str, terms: Sequence[int], index: int) -> int:
    n = index + 1
    match kind:
        case "a":
            return terms[index - 1]
        case "b":
            return terms[index - 2]
        case "n*n":
            return n * n
        case "n":
            return n
        case "1":
            return 1
    return n % int(kind[-2])


def residual(terms: Sequence[int], peeled: Sequence[Term]) -> list[int]:
    """What is left of ``terms`` when ``peeled`` is taken off; it begins where all of it is defined."""
    return [
        terms[index] - sum(term_value(term, terms, index) for term in peeled)
        for index in range(rule_order(peeled), len(terms))
    ]


def continue_rule(rule: Rule, terms: Sequence[int], count: int) -> list[int]:
    """``terms`` and ``count`` further ones by ``rule``."""
    found = list(terms)
    for index in range(len(terms), len(terms) + count):
        found.append(sum(term_value(term, found, index) for term in rule))
    return found


@lru_cache(maxsize=512)
def determined_rules(terms: tuple[int, ...]) -> tuple[Rule, ...]:
    """All rules that ``terms`` determine, those of the lowest cost first."""
    columns = _columns(terms)
    return tuple(rule for support in SUPPORTS if (rule := _fit(columns, terms, support)) is not None)


def simplest_rules(terms: Sequence[int]) -> list[Rule]:
    """The rules of the lowest cost that ``terms`` determine with at least one term to spare, in the order of KINDS."""
    columns = _columns(terms)
    rules: list[Rule] = []
    for support in SUPPORTS:
        if rules and _cost(support) > len(rules[0]) + rule_order(rules[0]):
            break
        if _cost(support) < len(terms) and (rule := _fit(columns, terms, support)) is not None:
            rules.append(rule)
    return rules


def _columns(terms: Sequence[int]) -> dict[str, list[int]]:
    """The values of every kind at every position; those of a and b are 0 where they are not defined."""
    return {
        kind: [_kind_value(kind, terms, index) if index >= _order([kind]) else 0 for index in range(len(terms))]
        for kind in KINDS
    }


def _fit(columns: dict[str, list[int]], terms: Sequence[int], support: tuple[str, ...]) -> Rule | None:
    """The rule with exactly these kinds that ``terms`` determine, if there is one."""
    rows = list(zip(*(columns[kind] for kind in support), terms, strict=True))[_order(support) :]
    few = len(support) + 1
    solved = _solve(rows[:few])
    if solved == "many":
        solved = _solve(rows)
    if isinstance(solved, str) or 0 in solved:
        return None
    if any(sum(c * x for c, x in zip(solved, row, strict=False)) != row[-1] for row in rows[few:]):
        return None
    return tuple(zip(support, solved, strict=True))


def _solve(equations: Sequence[Sequence[int]]) -> list[int] | str:
    """The whole-number solution of equations [coefficients..., right side], by elimination without fractions.

    Else ``none``, or ``many`` where several rational solutions exist.
    """
    rows = [list(row) for row in equations]
    num_unknowns = len(rows[0]) - 1
    rank = 0
    for column in range(num_unknowns):
        pivot = next((index for index in range(rank, len(rows)) if rows[index][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        top = rows[rank]
        for index, row in enumerate(rows):
            if index != rank and row[column]:
                scale, own = top[column], row[column]
                rows[index] = [scale * x - own * y for x, y in zip(row, top, strict=True)]
        rank += 1
    if any(row[-1] for row in rows[rank:]):
        return "none"
    if rank < num_unknowns:
        return "many"
    if any(rows[i][-1] % rows[i][i] for i in range(num_unknowns)):
        return "none"
    return [rows[i][-1] // rows[i][i] for i in range(num_unknowns)]
