"""Random puzzles: words for their variables and true clues until one world is left."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from outthink.tasks.dials import shuffled
from outthink.tasks.puzzles import COMES, FORMS, Clue, Kind, Puzzle

_POOLS = (
    "ann bob cy dan eve fay gus hal ian jo kim lea max ned pam ray",
    "red blue tan pink gray gold teal mint",
    "cat dog fish bird frog goat mouse hen",
    "tea milk soda beer cola water juice wine",
    "fig pear kiwi lime plum nut date corn",
    "hat cap tie belt sock boot glove scarf",
)
POOLS = tuple(tuple(pool.split()) for pool in _POOLS)


def draw_groups(rng: random.Random, kind: Kind, num_groups: int, size: int) -> tuple[tuple[str, ...], ...]:
    """Random words for a puzzle, each group from a pool of its own."""
    pools = [POOLS[0]] if kind == "guests" else rng.sample(POOLS, num_groups)
    return tuple(tuple(rng.sample(pool, size)) for pool in pools)


def draw_clues(rng: random.Random, puzzle: Puzzle, direct: float, num_spare: int) -> Puzzle:
    """``puzzle`` with random true clues that leave one world, none of them needless but for ``num_spare`` more."""
    worlds = puzzle.worlds
    secret = {}
    for group in puzzle.groups:
        values = (
            rng.sample(worlds.values, len(group))
            if puzzle.kind == "houses"
            else rng.choices(worlds.values, k=len(group))
        )
        secret.update(zip(group, values, strict=True))
    clues: dict[Clue, int] = {}
    left = worlds.every
    while left.bit_count() > 1:
        clue = _draw_clue(rng, puzzle, secret, direct)
        mask = puzzle.holds(clue)
        if left & mask != left:
            clues[clue] = mask
            left &= mask
    for clue in shuffled(rng, clues):
        rest = worlds.every
        for other, mask in clues.items():
            if other != clue:
                rest &= mask
        if rest.bit_count() == 1:
            del clues[clue]
    told = {clue.alike(puzzle.kind) for clue in clues}
    spare = [_draw_clue(rng, puzzle, secret, direct) for _ in range(num_spare)]
    extra = {clue.alike(puzzle.kind): clue for clue in spare if clue.alike(puzzle.kind) not in told}
    return Puzzle(puzzle.kind, puzzle.groups, tuple(shuffled(rng, [*clues, *extra.values()])))


def _draw_clue(rng: random.Random, puzzle: Puzzle, secret: Mapping[str, str], direct: float) -> Clue:
    """A clue that is true of ``secret``."""
    words = puzzle.variables
    if rng.random() < direct or len(words) == 1:
        word = words[int(rng.random() * len(words))]
        if puzzle.kind == "guests":
            return Clue(secret[word], (word,))
        house = rng.choice(puzzle.worlds.values) if rng.random() < 0.4 else secret[word]
        return Clue("at" if house == secret[word] else "not at", (word, house))
    if puzzle.kind == "guests":
        return _draw_guest_clue(rng, words, secret)
    one, other = rng.sample(words, 2)
    first, second = int(secret[one]), int(secret[other])
    if first == second:
        return Clue("with", (one, other))
    one, other = (one, other) if first < second else (other, one)
    forms = ["left"]
    if abs(first - second) == 1:
        forms += ["just left", "next"]
    if not any(one in group and other in group for group in puzzle.groups):
        forms.append("not with")
    form = rng.choice(forms)
    swap = FORMS["houses"][form].roles == "00" and rng.random() < 0.5
    return Clue(form, (other, one) if swap else (one, other))


def _draw_guest_clue(rng: random.Random, words: Sequence[str], secret: Mapping[str, str]) -> Clue:
    a, b, *rest = rng.sample(words, min(3, len(words)))
    come = {word: secret[word] == COMES for word in (a, b, *rest)}
    true = [
        ("either", come[a] or come[b]),
        ("not both", not (come[a] and come[b])),
        ("one", come[a] != come[b]),
        ("if", not come[a] or come[b]),
    ]
    if rest:
        both, last = come[a] and come[b], come[rest[0]]
        true += [("any", come[a] or come[b] or last), ("both", not both or last), ("bar", not both or not last)]
    form = rng.choice([form for form, holds in true if holds])
    return Clue(form, (a, b, *rest)[: len(FORMS["guests"][form].roles)])
