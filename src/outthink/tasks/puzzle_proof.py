"""A second opinion on puzzles by an SMT solver, which shares no code with the counting of worlds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from outthink.tasks.puzzles import COMES, STAYS, Kind, Puzzle


def solutions_by_z3(puzzle: Puzzle, limit: int = 2) -> list[dict[str, str]]:
    """Up to ``limit`` solutions of ``puzzle``, each the value of every variable; imports z3 now.

    One solution where two were asked for is a proof that it is the only one.
    """
    import z3

    solver = z3.Solver()
    guests = puzzle.kind == "guests"
    variables: dict[str, Any] = {word: z3.Bool(word) if guests else z3.Int(word) for word in puzzle.variables}
    if not guests:
        for group in puzzle.groups:
            solver.add(z3.Distinct(*[variables[word] for word in group]))
            solver.add(*[z3.And(variables[word] >= 1, variables[word] <= len(group)) for word in group])
    for clue in puzzle.clues:
        solver.add(_meaning(z3)[puzzle.kind][clue.form](*[variables.get(word, word) for word in clue.words]))
    found = []
    while len(found) < limit and solver.check() == z3.sat:
        model = solver.model()
        values = {word: model.eval(variable, model_completion=True) for word, variable in variables.items()}
        if guests:
            found.append({word: COMES if z3.is_true(value) else STAYS for word, value in values.items()})
        else:
            found.append({word: str(value) for word, value in values.items()})
        solver.add(z3.Or(*[variables[word] != value for word, value in values.items()]))
    return found


def _meaning(z3: Any) -> Mapping[Kind, Mapping[str, Callable[..., Any]]]:
    return {
        "houses": {
            "at": lambda a, house: a == int(house),
            "not at": lambda a, house: a != int(house),
            "with": lambda a, b: a == b,
            "not with": lambda a, b: a != b,
            "left": lambda a, b: a < b,
            "just left": lambda a, b: a + 1 == b,
            "next": lambda a, b: z3.Or(a + 1 == b, b + 1 == a),
        },
        "guests": {
            "comes": lambda a: a,
            "stays": lambda a: z3.Not(a),
            "either": lambda a, b: z3.Or(a, b),
            "not both": lambda a, b: z3.Not(z3.And(a, b)),
            "one": lambda a, b: a != b,
            "if": lambda a, b: z3.Implies(a, b),
            "any": lambda a, b, c: z3.Or(a, b, c),
            "both": lambda a, b, c: z3.Implies(z3.And(a, b), c),
            "bar": lambda a, b, c: z3.Implies(z3.And(a, b), z3.Not(c)),
        },
    }
