"""Arithmetic: compute an integer expression, one operation a line; in the modular form, then take the residue.

Accepted steps: a line ``a + b = c`` carries out one operation of the expression as it is bracketed, once both operands
are numbers. The operations come in any order that respects this; a sum or product may be written either way round.
The modular form has one more line, ``v mod m = r`` with r in 0..m-1, after all others. The answer comes last.

Two expressions are the same problem where they are equal under commuting and regrouping of sums and of products,
spacing, brackets that change nothing, and words for operators.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from outthink.tasks.dials import linear, override, whole, within
from outthink.tasks.expression import (
    MAX_CHARS,
    MAX_DIGITS,
    MAX_OPERATIONS,
    Tree,
    evaluate,
    normal_form,
    parse_tree,
    reductions,
    show_tree,
)
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for

WORDS = {"+": "plus", "-": "minus", "*": "times"}
SIGNS = {"plus": "+", "minus": "-", "times": "*", "×": "*", "−": "-"}
LEADS = ("compute", "calculate", "evaluate", "what is")
_LEAD = re.compile(rf"\s*(?:(?:{'|'.join(LEADS)})\b)?(.*?)[\s?=.]*", re.DOTALL | re.IGNORECASE)
_MODULUS = re.compile(r"(.*?)mod\s*([0-9]{1,20})\s*", re.DOTALL)


@dataclass(frozen=True)
class ArithmeticDials:
    """The settings of one problem; fractions are rounded up or down by chance, so that difficulty is smooth.

    ``operations``: how many there are (1..7 over difficulty 0..1). ``digits``: of every operand (1.5..3).
    ``factor_digits``: of the number by which a product multiplies (1 up to difficulty 0.5, then up to 2).
    ``plus``, ``minus``, ``times``: the odds of the operators (1 : 0 : 0 up to 1 : 1 : 1).
    ``modular``: the share of problems in the modular form (0..0.3). ``modulus_digits``: of its modulus (1..2).
    """

    operations: float
    digits: float
    factor_digits: float
    plus: float
    minus: float
    times: float
    modular: float
    modulus_digits: float

    def __post_init__(self) -> None:
        within("operations", self.operations, 1, MAX_OPERATIONS)
        for name in ("digits", "factor_digits", "modulus_digits"):
            within(name, getattr(self, name), 1, MAX_DIGITS)
        for name in ("plus", "minus", "times"):
            within(name, getattr(self, name), 0, 1000)
        within("plus + minus + times", self.plus + self.minus + self.times, 1e-9, 3000)
        within("modular", self.modular, 0, 1)

    @staticmethod
    def at(difficulty: float) -> ArithmeticDials:
        return ArithmeticDials(
            operations=linear(1, 7, difficulty),
            digits=linear(1.5, 3, difficulty),
            factor_digits=max(1.0, linear(0, 2, difficulty)),
            plus=1.0,
            minus=difficulty,
            times=difficulty,
            modular=linear(0, 0.3, difficulty),
            modulus_digits=linear(1, 2, difficulty),
        )


class Arithmetic:
    """Multi-step integer expressions; the dials are ArithmeticDials."""

    name = "arithmetic"
    summary = "Compute an integer expression, one operation a line."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, digits=6)``."""
        settings = override(ArithmeticDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        tree = _draw_tree(rng, settings, whole(rng, settings.operations))
        modulus = None
        if rng.random() < settings.modular:
            modulus = max(2, _draw_number(rng, settings.modulus_digits))
        return self._problem(tree, modulus, None, seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.strip() == problem.answer

    def extendable(self, problem: Problem, partial: str) -> bool:
        tree, modulus = parse_tree(problem.data["expression"]), problem.data["modulus"]
        assert tree is not None

        # The same line can stand for either of two equal parts of the expression: a state is the set of what may be
        # left of it. ``None`` in a state is the expression after its residue was taken.
        def moves(state: frozenset[Tree | None]) -> Iterator[tuple[str, frozenset[Tree | None] | None]]:
            after: dict[str, set[Tree | None]] = {}
            for left in state:
                if isinstance(left, tuple):
                    for line, rest in reductions(left):
                        after.setdefault(line, set()).add(rest)
                elif left is None or modulus is None:
                    yield ANSWER + problem.answer, None
                else:
                    after.setdefault(f"{left} mod {modulus} = {left % modulus}", set()).add(None)
            for line, trees in after.items():
                yield line, frozenset(trees)

        return follows(partial, frozenset([tree]), moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """Operands of sums and products in another order; operators as words or signs; other spacing and opening."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        tree, modulus = parse_tree(problem.data["expression"]), problem.data["modulus"]
        assert tree is not None
        tree = _commute(rng, tree)
        text = _show(tree, modulus)
        if rng.random() < 0.5:
            text = re.sub(r" ([-+*]) ", lambda sign: f" {WORDS[sign[1]]} ", text)
        elif rng.random() < 0.5:
            text = re.sub(r" ([-+*]) ", r"\1", text)
        lead = LEADS[int(rng.random() * len(LEADS))]
        return self._problem(tree, modulus, f"{lead} {text}", problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of an expression with + - * and brackets, perhaps all bracketed and then ``mod m``, else None.

        The word ``compute`` may be left out, and operators may be words; the prompt of the result is in standard form.
        """
        text = _LEAD.fullmatch(prompt)
        if text is None or len(prompt) > MAX_CHARS:
            return None
        expression, modulus = text[1].lower(), None
        if (residue := _MODULUS.fullmatch(expression)) is not None:
            expression, modulus = residue[1], int(residue[2])
            if not _stands_alone(expression.strip()):
                return None  # "2 + 3 mod 5" may mean either
        for word, sign in SIGNS.items():
            expression = expression.replace(word, sign)
        tree = parse_tree(expression)
        if tree is None or modulus == 0 or (isinstance(tree, int) and modulus is None):
            return None
        return self._problem(tree, modulus, None, 0, 0.0)

    def _problem(self, tree: Tree, modulus: int | None, prompt: str | None, seed: int, difficulty: float) -> Problem:
        steps: list[str] = []
        value = evaluate(tree, steps)
        canonical = normal_form(tree)
        if modulus is not None:
            steps.append(f"{value} mod {modulus} = {value % modulus}")
            value, canonical = value % modulus, f"{canonical}%{modulus}"
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=prompt if prompt is not None else "compute " + _show(tree, modulus),
            steps=tuple(steps),
            answer=str(value),
            canonical=canonical,
            data={"expression": show_tree(tree), "modulus": modulus},
        )


def _show(tree: Tree, modulus: int | None) -> str:
    if modulus is None:
        return show_tree(tree)
    return f"{tree} mod {modulus}" if isinstance(tree, int) else f"({show_tree(tree)}) mod {modulus}"


def _draw_number(rng: random.Random, digits: float) -> int:
    """A number of so many digits, not 0."""
    low = 10 ** (whole(rng, digits) - 1)
    return low + int(rng.random() * 9 * low)


def _draw_tree(rng: random.Random, dials: ArithmeticDials, operations: int) -> Tree:
    """A random tree, of which about half grow to the left only, as sums in books do.

    One side of a product is always a number, so that values grow by few digits at a time.
    """
    if operations == 0:
        return _draw_number(rng, dials.digits)
    choice = rng.random() * (dials.plus + dials.minus + dials.times)
    if choice >= dials.plus + dials.minus:
        factor = _draw_number(rng, dials.factor_digits)
        other = _draw_tree(rng, dials, operations - 1)
        return ("*", other, factor) if rng.random() < 0.75 else ("*", factor, other)
    in_left = operations - 1 if rng.random() < 0.5 else int(rng.random() * operations)
    left = _draw_tree(rng, dials, in_left)
    return "+" if choice < dials.plus else "-", left, _draw_tree(rng, dials, operations - 1 - in_left)


def _commute(rng: random.Random, tree: Tree) -> Tree:
    if isinstance(tree, int):
        return tree
    operator, left, right = tree[0], _commute(rng, tree[1]), _commute(rng, tree[2])
    swap = operator != "-" and rng.random() < 0.5
    return (operator, right, left) if swap else (operator, left, right)


def _stands_alone(expression: str) -> bool:
    """Whether a sign after ``expression`` could only mean all of it: it is a number, or one pair of brackets."""
    if expression.isdigit():
        return True
    depth = 0
    for at, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return expression.startswith("(") and at == len(expression) - 1
    return False
