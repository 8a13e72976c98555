"""Instructions that change a row of numbers or letters: told in words, read back, carried out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ROW, MAX_NUMBER = 40, 10_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"

# Wordings of every operation, the standard one first; the braces take its numbers.
WORDINGS = {
    "reverse": ("reverse", "turn around"),
    "left": ("rotate left {0}", "move the first {0} to the end"),
    "right": ("rotate right {0}", "move the last {0} to the front"),
    "swap": ("swap {0} and {1}", "exchange positions {0} and {1}"),
    "every": ("drop every {0}", "delete one in {0}"),
    "drop": ("drop {0}", "delete position {0}"),
    "sort": ("sort", "put in order"),
    "add": ("add {0}", "add {0} to each"),
    "double": ("double {0}", "multiply position {0} by 2"),
    "shift": ("shift {0}", "replace each by the letter {0} later"),
    "upper": ("uppercase {0}", "make position {0} upper case"),
}
CONDITIONS = {
    "falls": ("if first > last {then}", "if the first is above the last {then}"),
    "long": ("if longer than {limit} {then}", "if there are more than {limit} {then}"),
}
ONLY = {"add": "list", "double": "list", "shift": "letters", "upper": "letters"}
BY_ORDER, BY_VALUE = ("sort", "falls"), ("shift", "add", "double")  # what an operation or condition depends on
TO_EACH = ("add", "shift")

Row = tuple[int | str, ...]  # all numbers or all letters


@dataclass(frozen=True)
class Instruction:
    """An operation with its numbers; it is only done where ``condition`` (with its ``limit``) holds, if it has one.

    Positions count from 1.
    """

    operation: str
    numbers: tuple[int, ...] = ()
    condition: str = ""
    limit: int = 0

    def tell(self, wording: int = 0) -> str:
        """The text, in the wording of this index."""
        text = WORDINGS[self.operation][wording].format(*self.numbers)
        return CONDITIONS[self.condition][wording].format(then=text, limit=self.limit) if self.condition else text

    def applies(self, row: Row) -> bool:
        """Whether the condition holds for ``row``."""
        match self.condition:
            case "falls":
                return _rank(row[0]) > _rank(row[-1])
            case "long":
                return len(row) > self.limit
        return True

    def fits(self, row: Row) -> bool:
        """Whether the operation can be done on ``row`` and leaves at least one item."""
        kind = "list" if isinstance(row[0], int) else "letters"
        if ONLY.get(self.operation, kind) != kind:
            return False
        match self.operation, *self.numbers:
            case (("left" | "right"), count):
                return 1 <= count < len(row)
            case "swap", first, second:
                return 1 <= first < second <= len(row)
            case "every", gap:
                return 2 <= gap <= len(row)
            case "drop", position:
                return 1 <= position <= len(row) > 1
            case (("double" | "upper"), position):
                return 1 <= position <= len(row)
            case (("add" | "shift"), amount):
                return 1 <= amount < (MAX_NUMBER if kind == "list" else len(LETTERS))
        return True

    def carry_out(self, row: Row) -> Row:
        """The row afterwards, the same where the condition does not hold; the operation must fit."""
        return _carry_out(self, list(row)) if self.applies(row) else row


def _carry_out(instruction: Instruction, row: list[int | str]) -> Row:
    first, *others = instruction.numbers or (0,)
    match instruction.operation:
        case "reverse":
            row = row[::-1]
        case "left":
            row = row[first:] + row[:first]
        case "right":
            row = row[-first:] + row[:-first]
        case "swap":
            second = others[0] - 1
            row[first - 1], row[second] = row[second], row[first - 1]
        case "every":
            del row[first - 1 :: first]
        case "drop":
            del row[first - 1]
        case "sort":
            row = sorted(row, key=_rank)
        case _:
            to_each = instruction.operation in TO_EACH
            for index in range(len(row)) if to_each else (first - 1,):
                row[index] = _changed(instruction.operation, first, row[index])
    return tuple(row)


def _changed(operation: str, amount: int, item: int | str) -> int | str:
    if isinstance(item, int):
        return item + amount if operation == "add" else item * 2
    if operation == "upper":
        return item.upper()
    shifted = LETTERS[(LETTERS.index(item.lower()) + amount) % len(LETTERS)]
    return shifted if item.islower() else shifted.upper()


def _rank(item: int | str) -> int:
    """What items are sorted and compared by; upper and lower case letters are equal."""
    return item if isinstance(item, int) else LETTERS.index(item.lower())


def show_row(row: Sequence[int | str]) -> str:
    """The items with a space between."""
    return " ".join(map(str, row))


def read_row(kind: str, text: str) -> Row | None:
    """The row of numbers (``list``) or lower-case letters (``letters``) that ``text`` lists, else None."""
    words = text.split(" ")
    if len(words) > MAX_ROW:
        return None
    if kind == "letters":
        return tuple(words) if all(len(word) == 1 and word in LETTERS for word in words) else None
    return tuple(map(int, words)) if all(re.fullmatch("-?[0-9]{1,4}", word) for word in words) else None


def _pattern(template: str) -> re.Pattern[str]:
    text = re.sub(r"\\{(?:\d|limit)\\}", "([0-9]{1,4})", re.escape(template))
    return re.compile(text.replace(r"\{then\}", "(.*)"))


_OPERATIONS = [(name, _pattern(told)) for name, wordings in WORDINGS.items() for told in wordings]
_CONDITIONS = [(name, _pattern(told)) for name, wordings in CONDITIONS.items() for told in wordings]


def read_instruction(text: str) -> Instruction | None:
    """The instruction that ``text`` gives in one of its wordings, else None."""
    for name, pattern in _CONDITIONS:
        if match := pattern.fullmatch(text):
            *limit, then = match.groups()
            inner = read_instruction(then)
            if inner is None or inner.condition:
                return None
            return Instruction(inner.operation, inner.numbers, name, int(limit[0]) if limit else 0)
    for name, pattern in _OPERATIONS:
        if match := pattern.fullmatch(text):
            return Instruction(name, tuple(map(int, match.groups())))
    return None
