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

    solver, variables = _stated(puzzle, z3)
    guests = puzzle.kind == "guests"
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


def formula(puzzle: Puzzle) -> str:
    """The clues in SMT-LIB 2: an integer from 1 for each word, or for guests whether they come; imports z3 now."""
    import z3

    return _stated(puzzle, z3)[0].sexpr()


def _stated(puzzle: Puzzle, z3: Any) -> tuple[Any, dict[str, Any]]:
    """A solver that knows the clues, and its variables."""
    solver = z3.Solver(ctx=z3.Context())
    guests, context = puzzle.kind == "guests", solver.ctx
    make = z3.Bool if guests else z3.Int
    variables: dict[str, Any] = {word: make(word, ctx=context) for word in puzzle.variables}
    if not guests:
        for group in puzzle.groups:
            solver.add(z3.Distinct(*[variables[word] for word in group]))
            solver.add(*[z3.And(variables[word] >= 1, variables[word] <= len(group)) for word in group])
    for clue in puzzle.clues:
        solver.add(_meaning(z3)[puzzle.kind][clue.form](*[variables.get(word, word) for word in clue.words]))
    return solver, variables


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
