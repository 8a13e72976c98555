"""Traces of algorithms on lists and strings: what each is given, and the lines that carry it out.

The state after every step is on its line, so that each line can be checked from the one before and the input. Each of
these traces is the only accepted one of its problem.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, Protocol

Data = Mapping[str, Any]  # plain JSON values
Trace = tuple[list[str], str]  # steps and answer

SEPARATORS = (" ", ", ", "; ")
NUMBERS = re.compile(r"\d+(?: \d+)*|\d+(?:, \d+)+|\d+(?:; \d+)+")
LOW, HIGH = 10, 99  # the numbers of lists
ALPHABET = 4  # letters of a pair of strings


class Algorithm(Protocol):
    """One algorithm: it draws its input, tells it, reads it back and traces it. Pure functions."""

    title: str
    """The first words of the prompt."""
    fewest: int
    """Items (numbers, letters, nodes) at difficulty 0."""
    most: int
    """Items at difficulty 1."""

    def draw(self, rng: random.Random, items: int) -> Data: ...
    def tell(self, data: Data) -> str: ...
    def read(self, text: str) -> Data | None: ...
    def trace(self, data: Data) -> Trace: ...
    def canonical(self, data: Data) -> str: ...
    def retell(self, rng: random.Random, data: Data) -> Data: ...


class _OfNumbers:
    """What the algorithms on a list of numbers share: the list may be written with other separators."""

    title: str

    def tell(self, data: Data) -> str:
        return f"{self.title}\n{data['separator'].join(map(str, data['numbers']))}"

    def read(self, text: str) -> Data | None:
        head, _, body = text.partition("\n")
        return _read_numbers(body) if head == self.title else None

    def canonical(self, data: Data) -> str:
        return " ".join(map(str, data["numbers"]))

    def retell(self, rng: random.Random, data: Data) -> Data:
        return {**data, "separator": rng.choice(SEPARATORS[1:])}


class InsertionSort(_OfNumbers):
    """Each line is the whole list after the next number has been moved to its place among those before it."""

    title, fewest, most = "insertion sort", 3, 10

    def draw(self, rng: random.Random, items: int) -> Data:
        return {"numbers": _draw_numbers(rng, items), "separator": " "}

    def trace(self, data: Data) -> Trace:
        numbers, steps = list(data["numbers"]), []
        for place in range(1, len(numbers)):
            item = numbers.pop(place)
            numbers.insert(bisect_left(numbers, item, 0, place), item)
            steps.append(" ".join(map(str, numbers)))
        return steps, " ".join(map(str, numbers))


class BinarySearch(_OfNumbers):
    """Lines ``low-high middle:number`` and how the number compares with the one sought; answers its index or none.

    The middle is rounded down. The list is told with its indices: ``0:14 1:20``.
    """

    title, fewest, most = "binary search for", 4, 24
    told = re.compile(r"binary search for (\d+)\n(\d+:\d+(?:(?: |, |; )\d+:\d+)*)")

    def draw(self, rng: random.Random, items: int) -> Data:
        numbers = sorted(rng.sample(range(LOW, max(HIGH, 4 * items) + 1), items))
        present = rng.random() < 0.8
        return {
            "numbers": numbers,
            "separator": " ",
            "sought": rng.choice(numbers) if present else LOW + int(rng.random() * (numbers[-1] - LOW)),
        }

    def tell(self, data: Data) -> str:
        indexed = [f"{index}:{number}" for index, number in enumerate(data["numbers"])]
        return f"{self.title} {data['sought']}\n" + data["separator"].join(indexed)

    def read(self, text: str) -> Data | None:
        match = self.told.fullmatch(text)
        if match is None:
            return None
        data = _read_numbers(re.sub(r"\d+:", "", match[2]))
        if data is None or data["numbers"] != sorted(set(data["numbers"])):
            return None
        data = {**data, "sought": int(match[1])}
        return data if self.tell(data) == text else None

    def trace(self, data: Data) -> Trace:
        numbers, sought, steps = data["numbers"], data["sought"], []
        low, high = 0, len(numbers) - 1
        while low <= high:
            middle = (low + high) // 2
            number = numbers[middle]
            sign = "=" if number == sought else "<" if number < sought else ">"
            steps.append(f"{low}-{high} {middle}:{number} {sign}")
            if number == sought:
                return steps, str(middle)
            low, high = (middle + 1, high) if number < sought else (low, middle - 1)
        return steps, "none"

    def canonical(self, data: Data) -> str:
        return f"{data['sought']} in {super().canonical(data)}"


class LongestIncreasing(_OfNumbers):
    """A line ``number: length`` for each, the longest strictly increasing subsequence that ends in it."""

    title, fewest, most = "longest increasing subsequence", 3, 14

    def draw(self, rng: random.Random, items: int) -> Data:
        return {"numbers": _draw_numbers(rng, items), "separator": " "}

    def trace(self, data: Data) -> Trace:
        numbers: Sequence[int] = data["numbers"]
        lengths: list[int] = []
        for place, number in enumerate(numbers):
            before = [lengths[earlier] for earlier in range(place) if numbers[earlier] < number]
            lengths.append(max(before, default=0) + 1)
        return [f"{number}: {length}" for number, length in zip(numbers, lengths, strict=True)], str(max(lengths))


class EditDistance:
    """The rows of the Wagner-Fischer table, each after its letter of the first string; the row of the empty one first.

    Insertion, deletion and substitution cost 1 each.
    """

    title, fewest, most = "edit distance", 2, 8
    told = re.compile(r"edit distance\n([a-z]+) ([a-z]+)")

    def draw(self, rng: random.Random, items: int) -> Data:
        letters = rng.sample(ascii_lowercase, ALPHABET)
        first = [letters[int(rng.random() * ALPHABET)] for _ in range(items)]
        second = [letter if rng.random() < 0.6 else letters[int(rng.random() * ALPHABET)] for letter in first]
        if items > 2 and rng.random() < 0.5:
            del second[int(rng.random() * items)]
        return {"first": "".join(first), "second": "".join(second)}

    def tell(self, data: Data) -> str:
        return f"{self.title}\n{data['first']} {data['second']}"

    def read(self, text: str) -> Data | None:
        match = self.told.fullmatch(text)
        return {"first": match[1], "second": match[2]} if match else None

    def trace(self, data: Data) -> Trace:
        second = data["second"]
        row = list(range(len(second) + 1))
        steps = ["-: " + " ".join(map(str, row))]
        for letter in data["first"]:
            left = row[0] + 1
            following = [left]
            for column, other in enumerate(second):
                diagonal, above = row[column], row[column + 1]
                left = diagonal if letter == other else 1 + min(left, above, diagonal)
                following.append(left)
            row = following
            steps.append(f"{letter}: " + " ".join(map(str, row)))
        return steps, str(row[-1])

    def canonical(self, data: Data) -> str:
        """The two strings with their letters numbered by first use."""
        number: dict[str, str] = {}
        for letter in data["first"] + data["second"]:
            number.setdefault(letter, ascii_lowercase[len(number)])
        return " ".join("".join(number[letter] for letter in data[which]) for which in ("first", "second"))

    def retell(self, rng: random.Random, data: Data) -> Data:
        renamed = str.maketrans(ascii_lowercase, "".join(rng.sample(ascii_lowercase, 26)))
        return {which: data[which].translate(renamed) for which in ("first", "second")}


def _draw_numbers(rng: random.Random, count: int) -> list[int]:
    return [LOW + int(rng.random() * (HIGH + 1 - LOW)) for _ in range(count)]


def _read_numbers(text: str) -> dict[str, Any] | None:
    if NUMBERS.fullmatch(text) is None:
        return None
    separator = next((mark for mark in reversed(SEPARATORS) if mark in text), " ")
    words = text.split(separator)
    numbers = [int(word) for word in words]
    return {"numbers": numbers, "separator": separator} if words == [str(number) for number in numbers] else None
