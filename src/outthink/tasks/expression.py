"""Integer expressions of + - * / and brackets: reading, display, reductions and a normal form; nothing runs as code.

A tree is an int or a triple (operator, left, right).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Tree = int | tuple[str, "Tree", "Tree"]

MAX_CHARS, MAX_DIGITS, MAX_OPERATIONS = 2000, 20, 60
BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


def parse_tree(text: str, operators: str = "+-*") -> Tree | None:
    """The tree of ``text`` from left to right, * and / first; None where it is no expression of these operators.

    A minus before a number belongs to it; before a bracket it means ``0 - (...)``. Longer texts than MAX_CHARS,
    numbers of more than MAX_DIGITS digits and trees of more than MAX_OPERATIONS operations give None.
    """
    if len(text) > MAX_CHARS:
        return None
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(match[1]) > MAX_DIGITS:
            return None
        tokens.append(match[1])
        position = match.end()
    if sum(token in "+-*/" for token in tokens) > MAX_OPERATIONS or tokens.count("(") > MAX_OPERATIONS:
        return None
    if any(token in "+-*/" and token not in operators for token in tokens):
        return None
    reader = _Reader(tokens)
    tree = reader.sum()
    return tree if reader.position == len(tokens) else None


class _Reader:
    """Recursive descent; a method gives None, and so do its callers, where the tokens do not fit."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = [*tokens, "end"], 0

    def take(self, accepted: str) -> str | None:
        token = self.tokens[self.position]
        if token not in accepted:
            return None
        self.position += 1
        return token

    def sum(self) -> Tree | None:
        tree = self.product()
        while tree is not None and (operator := self.take("+-")):
            right = self.product()
            tree = None if right is None else (operator, tree, right)
        return tree

    def product(self) -> Tree | None:
        tree = self.atom()
        while tree is not None and (operator := self.take("*/")):
            right = self.atom()
            tree = None if right is None else (operator, tree, right)
        return tree

    def atom(self) -> Tree | None:
        negative = self.take("-") is not None
        if self.take("("):
            tree = self.sum()
            if tree is None or self.take(")") is None:
                return None
            if not negative:
                return tree
            return -tree if isinstance(tree, int) else ("-", 0, tree)
        token = self.tokens[self.position]
        if not token.isdecimal():
            return None
        self.position += 1
        return -int(token) if negative else int(token)


def show_tree(tree: Tree, outer: int = 0) -> str:
    """``tree`` with no brackets but the needed ones; ``outer`` is how strongly the surroundings bind."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    own = BINDING[operator]
    text = f"{show_tree(left, own - 1)} {operator} {show_tree(right, own)}"
    return f"({text})" if own <= outer else text


def apply(operator: str, left: int, right: int) -> int:
    """The value of one of the operations + - *."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def exact_value(tree: Tree) -> int | None:
    """The value of ``tree``; None where a division leaves a remainder or is by 0."""
    if isinstance(tree, int):
        return tree
    left, right = exact_value(tree[1]), exact_value(tree[2])
    if left is None or right is None:
        return None
    if tree[0] == "/":
        return None if right == 0 or left % right else left // right
    return apply(tree[0], left, right)


def leaves(tree: Tree) -> Iterator[int]:
    """The numbers of ``tree`` from left to right."""
    if isinstance(tree, int):
        yield tree
    else:
        yield from leaves(tree[1])
        yield from leaves(tree[2])


def evaluate(tree: Tree, steps: list[str]) -> int:
    """The value of ``tree``; appends one line ``a + b = c`` for every operation, inner and left ones first."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree
    first = evaluate(left, steps)
    second = evaluate(right, steps)
    value = apply(operator, first, second)
    steps.append(f"{first} {operator} {second} = {value}")
    return value


def reductions(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """Every operation that can be carried out next, as its line and the tree that it leaves.

    A sum or product has two lines, one for either order of its operands.
    """
    if isinstance(tree, int):
        return
    operator, left, right = tree
    if isinstance(left, int) and isinstance(right, int):
        value = apply(operator, left, right)
        yield f"{left} {operator} {right} = {value}", value
        if operator != "-" and left != right:
            yield f"{right} {operator} {left} = {value}", value
        return
    for line, rest in reductions(left):
        yield line, (operator, rest, right)
    for line, rest in reductions(right):
        yield line, (operator, left, rest)


def normal_form(tree: Tree) -> str:
    """A text that is equal for trees equal under commuting and regrouping of sums and of products.

    Sums within sums and products within products are opened and sorted, signs moved to the front; nothing is
    evaluated and nothing is multiplied out.
    """
    terms: list[str] = []
    _collect_terms(tree, False, terms)
    return "".join(sorted(terms))


def _collect_terms(tree: Tree, negative: bool, terms: list[str]) -> None:
    if not isinstance(tree, int) and tree[0] != "*":
        _collect_terms(tree[1], negative, terms)
        _collect_terms(tree[2], negative != (tree[0] == "-"), terms)
        return
    factors: list[str] = []
    negative = _collect_factors(tree, factors) != negative
    terms.append(("-" if negative else "+") + "*".join(sorted(factors)))


def _collect_factors(tree: Tree, factors: list[str]) -> bool:
    """Appends the factors of ``tree``; whether the product of their signs is negative."""
    if isinstance(tree, int):
        factors.append(str(abs(tree)))
        return tree < 0
    operator, left, right = tree
    if operator == "*":
        first = _collect_factors(left, factors)
        return _collect_factors(right, factors) != first
    factors.append(f"({normal_form(tree)})")
    return False
