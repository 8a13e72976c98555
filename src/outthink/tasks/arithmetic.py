"""Integer expressions, computed one operation a line.

``compute (17 + 5) * 3 - 8`` is solved by ``17 + 5 = 22``, ``22 * 3 = 66``, ``66 - 8 = 58``, ``answer: 58``. A step may
do any operation whose two operands are known by then, in any order; a sum or product may be written either way round.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from outthink.tasks.dials import geometric, linear, override, whole, within
from outthink.tasks.expression import (
    Expression,
    canonical,
    evaluate,
    read_expression,
    reductions,
    write_expression,
)
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for

_NUMBERS = {"+": "plus", "-": "minus", "*": "times"}


@dataclass(frozen=True)
class ArithmeticDials:
    """``operations``: how many, on average. ``largest``: operands are drawn from 1 to this, evenly in their logarithm.
    ``product_share``: the share of operations that multiply; their right factor is at most ``largest_factor``.
    ``mod_share``: the share of problems that end in ``mod m``, m from 2 to 12.
    """

    operations: float = 4.0
    largest: float = 99.0
    product_share: float = 0.25
    largest_factor: float = 9.0
    mod_share: float = 0.1

    @classmethod
    def at(cls, difficulty: float) -> ArithmeticDials:
        """The dials of a difficulty in 0..1."""
        d = check_difficulty(difficulty)
        return cls(
            operations=linear(1, 7, d),
            largest=geometric(9, 999, d),
            product_share=linear(0.1, 0.4, d),
            largest_factor=geometric(4, 30, d),
            mod_share=linear(0.0, 0.2, d),
        )


class Arithmetic:
    """The `Family` of arithmetic expressions."""

    name = "arithmetic"
    summary = "compute an integer expression, one operation a line"

    def generate(self, seed: int, difficulty: float) -> Problem:
        """See `Family.generate`."""
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float, **dials: float) -> Problem:
        """The problem of this seed, with some dials of `ArithmeticDials` set by keyword."""
        setting = override(ArithmeticDials.at(difficulty), dials)
        within("operations", setting.operations, 1, 40)
        within("largest", setting.largest, 1, 10**9)
        within("largest_factor", setting.largest_factor, 2, 10**6)
        rng = rng_for(self.name, seed, difficulty)
        tree = _grow(rng, max(1, whole(rng, setting.operations)), setting)
        if rng.random() < setting.mod_share:
            tree = ("mod", tree, 2 + int(rng.random() * 11))
        return _problem(tree, difficulty, seed)

    def check(self, problem: Problem, answer: str) -> bool:
        """See `Family.check`: the same whole number, however it is written."""
        text = answer.strip().removeprefix("+")
        return text.removeprefix("-").isdecimal() and len(text) < 100 and int(text) == int(problem.answer)

    def extendable(self, problem: Problem, partial: str) -> bool:
        """See `Family.extendable`: any order of operations is accepted."""
        return follows(partial, frozenset([_tree(problem.data["expression"])]), _moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """See `Family.rerender`: sums and products commuted, operators in words or without spaces."""
        rng = random.Random(seed)
        tree = _commute(rng, _tree(problem.data["expression"]))
        text, style = write_expression(tree), int(rng.random() * 3)
        if style == 1:
            text = " ".join(_NUMBERS.get(word, word) for word in text.split(" "))
        elif style == 2:
            text = text.replace(" ", "").replace("mod", " mod ")
        return _problem(tree, problem.difficulty, problem.seed, text)

    def read(self, prompt: str) -> Problem | None:
        """See `Family.read`: an expression with at least one operation, with or without the word compute."""
        text = prompt.strip().rstrip("=?. \n")
        for word in ("compute", "calculate", "what is"):
            if text.lower().startswith(word):
                text = text[len(word) :]
        tree = read_expression(text)
        return None if tree is None or isinstance(tree, int) or evaluate(tree) is None else _problem(tree, 0.0, 0)


def _grow(rng: random.Random, operations: int, dials: ArithmeticDials) -> Expression:
    """A random tree with this many operations."""
    if operations == 0:
        return max(1, int(dials.largest ** rng.random() + rng.random()))
    if rng.random() < dials.product_share:
        factor = 2 + int(rng.random() * max(1.0, dials.largest_factor - 1))
        return ("*", _grow(rng, operations - 1, dials), factor)
    left = int(rng.random() * operations)
    if rng.random() < 0.5:
        left = operations - 1  # half of all trees grow to the left, as expressions in books do
    op = "+" if rng.random() < 0.5 else "-"
    return (op, _grow(rng, left, dials), _grow(rng, operations - 1 - left, dials))


def _problem(tree: Expression, difficulty: float, seed: int, text: str | None = None) -> Problem:
    steps, rest = [], tree
    while not isinstance(rest, int):
        line, rest = next(reductions(rest))
        steps.append(line)
    expression = write_expression(tree)
    return Problem(
        family=Arithmetic.name,
        difficulty=difficulty,
        seed=seed,
        prompt=f"compute {expression if text is None else text}",
        steps=tuple(steps),
        answer=str(rest),
        canonical=canonical(tree),
        data={"expression": expression},
    )


@lru_cache(maxsize=256)
def _tree(expression: str) -> Expression:
    tree = read_expression(expression)
    assert tree is not None
    return tree


def _moves(trees: frozenset[Expression]) -> list[tuple[str, frozenset[Expression] | None]]:
    """The accepted next lines: of every tree that the lines so far may stand for."""
    lines: dict[str, set[Expression]] = {}
    for tree in trees:
        if isinstance(tree, int):
            return [(f"{ANSWER}{tree}", None)]
        for line, done in reductions(tree):
            lines.setdefault(line, set()).add(done)
    return [(line, frozenset(done)) for line, done in lines.items()]


def _commute(rng: random.Random, tree: Expression) -> Expression:
    if isinstance(tree, int):
        return tree
    op, left, right = tree[0], _commute(rng, tree[1]), _commute(rng, tree[2])
    return (op, right, left) if op in "+*" and rng.random() < 0.5 else (op, left, right)
