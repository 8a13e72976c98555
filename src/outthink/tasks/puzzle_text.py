"""How puzzles are told and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from outthink.tasks.puzzles import COMES, FORMS, MOST_WORLDS, STAYS, Clue, Kind, Puzzle, num_worlds

HOUSES = re.compile(r"houses 1-(\d)\. ((?:[a-z ]+, )*[a-z ]+)\.\n((?:[a-z0-9 ]+\. )*[a-z0-9 ]+)\.\nwho is where\?")
GUESTS = re.compile(r"guests ([a-z ]+)\.\n((?:[a-z ]+\. )*[a-z ]+)\.\nwho comes\?")
PATTERNS = {
    kind: {name: re.compile(re.sub(r"\{\d\}", "([a-z]+|[0-9])", form.text)) for name, form in forms.items()}
    for kind, forms in FORMS.items()
}


def tell(puzzle: Puzzle) -> str:
    """The prompt of ``puzzle``."""
    forms = FORMS[puzzle.kind]
    clues = " ".join([forms[form].text.format(*words) + "." for form, words in puzzle.clues])
    if puzzle.kind == "guests":
        return f"guests {' '.join(puzzle.groups[0])}.\n{clues}\nwho comes?"
    groups = ", ".join([" ".join(group) for group in puzzle.groups])
    return f"houses 1-{len(puzzle.groups[0])}. {groups}.\n{clues}\nwho is where?"


def read_puzzle(prompt: str) -> Puzzle | None:
    """The puzzle that a prompt states, or None."""
    if match := HOUSES.fullmatch(prompt):
        kind, size, told, clues = "houses", int(match[1]), match[2], match[3]
    elif match := GUESTS.fullmatch(prompt):
        kind, size, told, clues = "guests", len(match[1].split(" ")), match[1], match[2]
    else:
        return None
    groups = tuple(tuple(group.split(" ")) for group in told.split(", "))
    words = {word for group in groups for word in group}
    if any(len(group) != size for group in groups) or len(words) < size * len(groups) or "" in words:
        return None
    if num_worlds(kind, len(groups), size) > MOST_WORLDS:
        return None
    found = [_read_clue(kind, words, size, clue) for clue in clues.split(". ")]
    if None in found:
        return None
    puzzle = Puzzle(kind, groups, tuple(clue for clue in found if clue))
    return puzzle if tell(puzzle) == prompt else None


def _read_clue(kind: Kind, words: set[str], size: int, told: str) -> Clue | None:
    for form, pattern in PATTERNS[kind].items():
        match = pattern.fullmatch(told)
        if match is None:
            continue
        places = match.groups()
        house = kind == "houses" and form in ("at", "not at")
        named = places[:1] if house else places
        if (
            words.issuperset(named)
            and len(set(named)) == len(named)
            and (not house or places[1] in map(str, range(1, size + 1)))
        ):
            return Clue(form, places)
    return None


def tell_answer(puzzle: Puzzle, solution: Mapping[str, str]) -> str:
    """The canonical answer: the words of each house, houses apart by commas, or the guests who come."""
    if puzzle.kind == "guests":
        return " ".join([word for word in puzzle.variables if solution[word] == COMES]) or "nobody"
    houses = [[word for word in puzzle.variables if solution[word] == house] for house in puzzle.worlds.values]
    return ", ".join([" ".join(words) for words in houses])


def read_answer(puzzle: Puzzle, answer: str) -> dict[str, bool | int] | None:
    """The value of each word that ``answer`` says, the house or whether the guest comes; None where it does not say
    one value for each, and nothing else.
    """
    if puzzle.kind == "guests":
        coming = answer.replace(",", " ").split() if answer.strip() != "nobody" else []
        if len(set(coming)) < len(coming) or not set(coming) <= set(puzzle.variables):
            return None
        return {word: word in coming for word in puzzle.variables}
    houses = [house.split() for house in answer.split(",")]
    told = [word for house in houses for word in house]
    if len(houses) != len(puzzle.groups[0]) or sorted(told) != sorted(puzzle.variables):
        return None
    return {word: 1 + number for number, house in enumerate(houses) for word in house}


def read_stated(puzzle: Puzzle, partial: str) -> dict[str, bool | int] | None:
    """What the finished lines of an unfinished solution state, one word each; None where one states something else, or
    a word twice.
    """
    values = {COMES: True, STAYS: False} if puzzle.kind == "guests" else {v: int(v) for v in puzzle.worlds.values}
    stated: dict[str, bool | int] = {}
    for line in partial.split("\n")[:-1]:
        word, _, value = line.partition(" ")
        if word in stated or word not in puzzle.variables or value not in values:
            return None
        stated[word] = values[value]
    return stated
