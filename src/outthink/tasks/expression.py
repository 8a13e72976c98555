"""Integer expressions as trees: read, written, reduced one operation at a time. Nothing is ever evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Iterator

Expression = int | tuple[str, "Expression", "Expression"]

MAX_LENGTH, MAX_DIGITS, MAX_OPERATIONS = 600, 12, 60
PRECEDENCE = {"+": 0, "-": 0, "*": 1, "mod": 1}
WORDS = {"plus": "+", "minus": "-", "times": "*", "modulo": "mod", "x": "*", "×": "*", "−": "-"}
_TOKEN = re.compile(r"\s*(\d+|mod|[-+*()]|plus|minus|times|modulo|x|×|−)")


def read_expression(text: str) -> Expression | None:
    """The tree of ``text``, or None where it is no expression of + - * mod, parentheses and whole numbers."""
    if len(text) > MAX_LENGTH:
        return None
    tokens, at = [], 0
    text = text.strip().lower()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or (match[1].isdigit() and len(match[1]) > MAX_DIGITS):
            return None
        tokens.append(WORDS.get(match[1], match[1]))
        at = match.end()
    tree = _Reader(tokens).whole()
    return tree if tree is not None and sum(1 for _ in operations(tree)) <= MAX_OPERATIONS else None


class _Reader:
    """Precedence climbing over tokens; left-associative."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def whole(self) -> Expression | None:
        tree = self.binary(0)
        return tree if self.at == len(self.tokens) else None

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def binary(self, level: int) -> Expression | None:
        left = self.operand()
        while left is not None and PRECEDENCE.get(self.next(), -1) >= level:
            op = self.next()
            self.at += 1
            right = self.binary(PRECEDENCE[op] + 1)
            left = None if right is None else (op, left, right)
        return left

    def operand(self) -> Expression | None:
        token = self.next()
        self.at += 1
        if token == "(":
            inner = self.binary(0)
            self.at += 1
            return inner if self.tokens[self.at - 1 : self.at] == [")"] else None
        if token == "-" and self.next().isdigit():
            return -int(self.operand())  # type: ignore[arg-type]
        return int(token) if token.isdigit() else None


def write_expression(tree: Expression) -> str:
    """The text of ``tree`` with no parentheses but those it needs."""
    if isinstance(tree, int):
        return str(tree)
    op, left, right = tree
    level = PRECEDENCE[op]
    return f"{_bracketed(left, level)} {op} {_bracketed(right, level + 1)}"


def _bracketed(tree: Expression, level: int) -> str:
    text = write_expression(tree)
    return text if isinstance(tree, int) or PRECEDENCE[tree[0]] >= level else f"({text})"


def apply(op: str, left: int, right: int) -> int | None:
    """The value of one operation; None where it has none (mod by a number below 1)."""
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left % right if right > 0 else None


def reductions(tree: Expression) -> Iterator[tuple[str, Expression]]:
    """Each operation on two numbers in ``tree``, leftmost first: its line ``a op b = c`` and the tree with it done."""
    if isinstance(tree, int):
        return
    op, left, right = tree
    if isinstance(left, int) and isinstance(right, int):
        value = apply(op, left, right)
        if value is not None:
            yield f"{left} {op} {right} = {value}", value
            if op in "+*" and left != right:
                yield f"{right} {op} {left} = {value}", value
        return
    for line, done in reductions(left):
        yield line, (op, done, right)
    for line, done in reductions(right):
        yield line, (op, left, done)


def evaluate(tree: Expression) -> int | None:
    """The value of ``tree``; None where some operation has none."""
    if isinstance(tree, int):
        return tree
    left, right = evaluate(tree[1]), evaluate(tree[2])
    return None if left is None or right is None else apply(tree[0], left, right)


def operations(tree: Expression) -> Iterator[str]:
    """The operators of ``tree``."""
    if not isinstance(tree, int):
        yield tree[0]
        yield from operations(tree[1])
        yield from operations(tree[2])


def canonical(tree: Expression) -> str:
    """A text that is equal for two trees exactly when sums and products of one are commuted into the other's."""
    if isinstance(tree, int):
        return str(tree)
    op, left, right = tree[0], canonical(tree[1]), canonical(tree[2])
    if op in "+*" and right < left:
        left, right = right, left
    return f"({left}{op}{right})"
