"""Puzzles over a few variables, solved exactly by sets of worlds.

A world is an assignment of a value to every variable; a set of worlds is one big integer, a bit for each. A clue is the
set of the worlds in which it holds, so that solving is a conjunction and uniqueness is a count of bits.

Two kinds: ``houses`` puts the words of each group on the houses 1..n, one on each; ``guests`` says who comes and who
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from itertools import chain, combinations, permutations
from math import factorial
from operator import and_, or_
from typing import Literal, NamedTuple

from outthink.tasks.canonical import canonical_form

Kind = Literal["houses", "guests"]
MOST_WORLDS = 1 << 21
FEW_CLUES = 3
COMES, STAYS = "comes", "stays"
VARIABLE, GROUP, FIRST_CLUE, FIRST_POSITION = 0, 1, 2, 32  # colours of the canonical form


class Form(NamedTuple):
    """How a clue is told, and which of its places may be exchanged without a change of meaning.

    ``roles`` gives each place a digit; places of the same digit are alike.
    """

    text: str
    roles: str


FORMS: Mapping[Kind, Mapping[str, Form]] = {
    "houses": {
        "at": Form("{0} at {1}", "01"),
        "not at": Form("{0} not at {1}", "01"),
        "with": Form("{0} with {1}", "00"),
        "not with": Form("{0} not with {1}", "00"),
        "left": Form("{0} left of {1}", "01"),
        "just left": Form("{0} just left of {1}", "01"),
        "next": Form("{0} next to {1}", "00"),
    },
    "guests": {
        "comes": Form("{0} comes", "0"),
        "stays": Form("{0} stays", "0"),
        "either": Form("{0} or {1} comes", "00"),
        "not both": Form("{0} or {1} stays", "00"),
        "one": Form("just one of {0} and {1} comes", "00"),
        "if": Form("if {0} comes then {1} comes", "01"),
        "any": Form("{0} or {1} or {2} comes", "000"),
        "both": Form("if {0} and {1} come then {2} comes", "001"),
        "bar": Form("if {0} and {1} come then {2} stays", "001"),
    },
}


class Clue(NamedTuple):
    """A form of the puzzle's kind and the words (for ``at``, a word and a house number) in its places."""

    form: str
    words: tuple[str, ...]

    def alike(self, kind: Kind) -> Clue:
        """The clue with exchangeable places in alphabetical order: equal for two ways to say the same."""
        roles = FORMS[kind][self.form].roles
        return Clue(self.form, tuple(word for _, word in sorted(zip(roles, self.words, strict=True))))


@dataclass(frozen=True)
class Puzzle:
    """Groups of words and clues about them, both in the order they are told; ``guests`` has a single group."""

    kind: Kind
    groups: tuple[tuple[str, ...], ...]
    clues: tuple[Clue, ...]

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """All words, in the order they are told."""
        return tuple(chain.from_iterable(self.groups))

    @cached_property
    def number(self) -> dict[str, int]:
        """The place of each word among the variables, and of each house number among the houses."""
        houses = {str(1 + house): house for house in range(len(self.groups[0]))} if self.kind == "houses" else {}
        return {**houses, **{word: place for place, word in enumerate(self.variables)}}

    @cached_property
    def worlds(self) -> Worlds:
        """All worlds of the puzzle's shape."""
        return worlds_of(self.kind, len(self.groups), len(self.groups[0]))

    def holds(self, clue: Clue) -> int:
        """The worlds in which ``clue`` holds."""
        return MEANING[self.kind][clue.form](self.worlds, *[self.number[word] for word in clue.words])

    def solve(self) -> dict[str, str] | None:
        """The value of each variable in the one world where all clues hold; None where there are none or several."""
        left = reduce(and_, map(self.holds, self.clues), self.worlds.every)
        if left.bit_count() != 1:
            return None
        worlds = self.worlds
        return {
            word: next(value for value, mask in zip(worlds.values, worlds.where[index], strict=True) if mask & left)
            for index, word in enumerate(self.variables)
        }

    def derivation(self, solution: Mapping[str, str]) -> list[str]:
        """The variables in an order in which they can be found, from as few clues at a time as possible.

        Next come those that follow from the values found so far alone, else from these and the first clue told that
        gives any, else from the first two, else three, else from all.
        """
        worlds = self.worlds
        elsewhere = {
            word: worlds.every ^ worlds.where[index][worlds.values.index(solution[word])]
            for index, word in enumerate(self.variables)
        }
        masks = [self.holds(clue) for clue in self.clues]
        known, order = worlds.every, []
        while elsewhere:
            few = chain.from_iterable(combinations(masks, count) for count in range(FEW_CLUES + 1))
            evidence = chain(
                (reduce(and_, chosen, worlds.every) for chosen in few), [reduce(and_, masks, worlds.every)]
            )
            for mask in evidence:
                region = known & mask
                found = [word for word, others in elsewhere.items() if not region & others]
                if found:
                    break
            else:
                raise ValueError("the clues do not fix the solution")
            for word in found:
                known &= ~elsewhere.pop(word)
            order += found
        return order

    def canonical(self) -> str:
        """Equal for two puzzles exactly when names, order and exchangeable places are all that differs."""
        number = {word: place for place, word in enumerate(self.variables)}
        colours = [VARIABLE] * len(number)
        edges = []
        for group in self.groups:
            edges += [(len(colours), number[word], 0) for word in group]
            colours.append(GROUP)
        forms = list(FORMS[self.kind])
        for clue in self.clues:
            for word in clue.words:
                if word not in number:
                    number[word] = len(colours)
                    colours.append(FIRST_POSITION + int(word))
            roles = FORMS[self.kind][clue.form].roles
            if len(roles) == 2 and len(set(roles)) == 2:
                edges.append((number[clue.words[0]], number[clue.words[1]], 4 + forms.index(clue.form)))
                continue
            edges += [(len(colours), number[word], 1 + int(role)) for role, word in zip(roles, clue.words, strict=True)]
            colours.append(FIRST_CLUE + forms.index(clue.form))
        return f"{self.kind} {len(self.groups[0])} {canonical_form(colours, edges)}"


@dataclass(frozen=True)
class Worlds:
    """All worlds of a shape: ``where[variable][value]`` is the set of those that give the variable that value."""

    values: tuple[str, ...]
    where: tuple[tuple[int, ...], ...]
    every: int

    def related(self, one: int, other: int, relation: Callable[[int, int], bool]) -> int:
        """The worlds in which ``relation`` holds between the positions of two variables."""
        span = range(len(self.values))
        pairs = [(p, q) for p in span for q in span if relation(p, q)]
        return reduce(or_, [self.where[one][p] & self.where[other][q] for p, q in pairs], 0)


def num_worlds(kind: Kind, num_groups: int, size: int) -> int:
    """How many worlds a shape has."""
    return factorial(size) ** num_groups if kind == "houses" else 2**size


@cache
def worlds_of(kind: Kind, num_groups: int, size: int) -> Worlds:
    """The worlds of ``num_groups`` groups of ``size`` words on houses, or of ``size`` guests."""
    if kind == "houses":
        return _worlds(tuple(str(1 + house) for house in range(size)), list(permutations(range(size))), num_groups)
    return _worlds((COMES, STAYS), [(0,), (1,)], size)


def _worlds(values: tuple[str, ...], states: Sequence[tuple[int, ...]], num_blocks: int) -> Worlds:
    """The product of ``num_blocks`` blocks of variables; a state of a block says the value of each of its variables."""
    where = []
    for block in range(num_blocks):
        run, repeats = len(states) ** block, len(states) ** (num_blocks - 1 - block)
        for variable in range(len(states[0])):
            masks = []
            for value in range(len(values)):
                bits = "".join("01"[state[variable] == value] * run for state in reversed(states))
                masks.append(int(bits * repeats, 2))
            where.append(tuple(masks))
    return Worlds(values, tuple(where), (1 << len(states) ** num_blocks) - 1)


def _comes(worlds: Worlds, *guests: int) -> int:
    return reduce(and_, [worlds.where[guest][0] for guest in guests])


def _any(worlds: Worlds, *guests: int) -> int:
    return reduce(or_, [worlds.where[guest][0] for guest in guests])


MEANING: Mapping[Kind, Mapping[str, Callable[..., int]]] = {
    "houses": {
        "at": lambda worlds, a, house: worlds.where[a][house],
        "not at": lambda worlds, a, house: worlds.every ^ worlds.where[a][house],
        "with": lambda worlds, a, b: worlds.related(a, b, lambda p, q: p == q),
        "not with": lambda worlds, a, b: worlds.related(a, b, lambda p, q: p != q),
        "left": lambda worlds, a, b: worlds.related(a, b, lambda p, q: p < q),
        "just left": lambda worlds, a, b: worlds.related(a, b, lambda p, q: p + 1 == q),
        "next": lambda worlds, a, b: worlds.related(a, b, lambda p, q: abs(p - q) == 1),
    },
    "guests": {
        "comes": _comes,
        "stays": lambda worlds, a: worlds.every ^ _comes(worlds, a),
        "either": _any,
        "not both": lambda worlds, a, b: worlds.every ^ _comes(worlds, a, b),
        "one": lambda worlds, a, b: _comes(worlds, a) ^ _comes(worlds, b),
        "if": lambda worlds, a, b: worlds.every ^ (_comes(worlds, a) & ~_comes(worlds, b)),
        "any": _any,
        "both": lambda worlds, a, b, c: worlds.every ^ (_comes(worlds, a, b) & ~_comes(worlds, c)),
        "bar": lambda worlds, a, b, c: worlds.every ^ _comes(worlds, a, b, c),
    },
}
