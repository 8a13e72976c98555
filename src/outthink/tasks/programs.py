"""A small language for rules of integer sequences, read and run within bounds; nothing is run as code.

Grammar (white space is free, and ``*`` and ``mod`` bind more strongly than ``+`` and ``-``, all from left to right)::

    program = term (("+" | "-") term)*
    term    = factor (("*" | "mod") factor)*
    factor  = number | "n" | "a" | "b" | "(" program ")" | "-" factor

``n`` is the position 1, 2, 3, ...; ``a`` is the term before, ``b`` the one before that. ``x mod m`` is in 0..m-1.
A modulus below 1, or a value of more than MAX_VALUE, ends the run without a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CHARS, MAX_VALUE = 120, 10**15
_TOKEN = re.compile(r"\s*([0-9]{1,15}|mod|[nab()*+-])")

Program = int | str | tuple[str, "Program", "Program"]


class _BoundsError(Exception):
    """A value is too large, or a modulus below 1."""


def parse_program(text: str) -> Program | None:
    """The tree of ``text``: numbers, names, and triples (operator, left, right); None where it is no program."""
    text = text.rstrip()
    if len(text) > MAX_CHARS:
        return None
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[1])
        position = match.end()
    tree, position = _read_chain(tokens, 0, ("+", "-"))
    return tree if position == len(tokens) else None


def _read_chain(tokens: Sequence[str], position: int, operators: tuple[str, ...]) -> tuple[Program | None, int]:
    """A program, or a term where ``operators`` are those of a term, from ``position``; and where it ends."""
    in_term = "*" in operators
    tree: Program | None = None
    operator = ""
    while True:
        right, position = _read_factor(tokens, position) if in_term else _read_chain(tokens, position, ("*", "mod"))
        if right is None:
            return None, position
        tree = (operator, tree, right) if tree is not None else right
        if position == len(tokens) or tokens[position] not in operators:
            return tree, position
        operator = tokens[position]
        position += 1


def _read_factor(tokens: Sequence[str], position: int) -> tuple[Program | None, int]:
    token = tokens[position] if position < len(tokens) else ""
    if token == "(":
        tree, position = _read_chain(tokens, position + 1, ("+", "-"))
        closed = position < len(tokens) and tokens[position] == ")"
        return (tree if closed else None), position + 1
    if token == "-":
        tree, position = _read_factor(tokens, position + 1)
        return (None if tree is None else ("-", 0, tree)), position
    if token in ("n", "a", "b"):
        return token, position + 1
    return (int(token) if token.isdecimal() else None), position + 1


def order(program: Program) -> int:
    """How many first terms ``program`` has to be given: 2 where it uses b, 1 where it uses a, else 0."""
    if isinstance(program, tuple):
        return max(order(program[1]), order(program[2]))
    return {"a": 1, "b": 2}.get(program, 0) if isinstance(program, str) else 0


def run_program(program: Program, first: Sequence[int], count: int) -> list[int] | None:
    """The first ``count`` terms, of which as many as ``order`` says are taken from ``first``; None out of bounds."""
    terms = list(first[: order(program)])
    try:
        while len(terms) < count:
            position = len(terms) + 1
            before = terms[-1] if terms else 0
            terms.append(_evaluate(program, position, before, terms[-2] if len(terms) > 1 else 0))
    except _BoundsError:
        return None
    return terms


def _evaluate(program: Program, n: int, a: int, b: int) -> int:
    if isinstance(program, int):
        return program
    if isinstance(program, str):
        return n if program == "n" else a if program == "a" else b
    operator, left, right = program[0], _evaluate(program[1], n, a, b), _evaluate(program[2], n, a, b)
    if operator == "mod":
        if right < 1:
            raise _BoundsError
        return left % right
    value = left + right if operator == "+" else left - right if operator == "-" else left * right
    if abs(value) > MAX_VALUE:
        raise _BoundsError
    return value
