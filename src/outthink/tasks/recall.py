"""Recall: look up a value in a long list of notes, through several hops.

A note is a name that leads to another name or to a number: ``kf=ba``. From the name asked for, follow the notes until
a number comes; the number is the answer. All other notes form chains of the same shape, so that neither the
shape nor the position of a note gives the answer away.

Accepted steps: each line repeats the next note of the chain, in order, and the answer comes after the last of them;
a problem has exactly one accepted solution.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase

from outthink.tasks.dials import geometric, linear, override, shuffled, whole, within
from outthink.tasks.oracle import begins
from outthink.tasks.problem import Problem, check_difficulty, rng_for

PROMPT = re.compile(r"notes: ([a-z]+=[a-z0-9]+(?:, [a-z]+=[a-z0-9]+)*)\nfollow ([a-z]+)")
NAMES = {letters: tuple(map("".join, product(ascii_lowercase, repeat=letters))) for letters in (2, 3)}
MOST_SHORT, MOST_NOTES = 500, 15_000

Notes = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RecallDials:
    """``notes``: how many notes the prompt holds (about 7 characters each); ``hops``: notes from question to answer.

    Fractions are rounded up or down by chance. Difficulty 0..1 gives 6..95 notes (geometric) and 1..4 hops; contexts of
    thousands of tokens come from ``notes`` directly.
    """

    notes: float
    hops: float

    def __post_init__(self) -> None:
        within("notes", self.notes, 1, MOST_NOTES)
        within("hops", self.hops, 1, MOST_NOTES)

    @staticmethod
    def at(difficulty: float) -> RecallDials:
        """The dials of a difficulty in 0..1."""
        return RecallDials(geometric(6, 95, difficulty), linear(1, 4, difficulty))


class Recall:
    """Key-value and multi-hop look-up; the dials are RecallDials."""

    name = "recall"
    summary = "Follow notes from name to name until a number comes."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, notes=2000)``."""
        settings = override(RecallDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        num_notes, hops = whole(rng, settings.notes), whole(rng, settings.hops)
        hops = min(hops, num_notes)
        names = _draw_names(rng, num_notes)
        # The notes of one chain are neighbours here: every hops-th one ends in a number, and so does the last.
        notes = [
            (
                name,
                names[index + 1] if (index + 1) % hops and index + 1 < num_notes else str(10 + int(rng.random() * 90)),
            )
            for index, name in enumerate(names)
        ]
        return self._problem(shuffled(rng, notes), names[0], seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.strip() == problem.answer

    def extendable(self, problem: Problem, partial: str) -> bool:
        return begins(partial, problem.solution)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        notes: Notes = [(name, value) for name, value in problem.data["notes"]]
        renamed = dict(zip((name for name, _ in notes), _draw_names(rng, len(notes)), strict=True))
        again = [(renamed[name], renamed.get(value) or value) for name, value in notes]
        return self._problem(shuffled(rng, again), renamed[problem.data["start"]], problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a prompt whose notes form chains that end in numbers, else None."""
        match = PROMPT.fullmatch(prompt)
        if match is None:
            return None
        notes = [(name, value) for name, value in (note.split("=") for note in match[1].split(", "))]
        names, values = {name for name, _ in notes}, [value for _, value in notes if not value.isdecimal()]
        if len(names) < len(notes) or len(set(values)) < len(values) or not names.issuperset(values):
            return None
        if match[2] not in names or sum(map(len, _chains(notes))) < len(notes):  # a shortfall: notes in a ring
            return None
        return self._problem(notes, match[2], 0, 0.0)

    def _problem(self, notes: Notes, start: str, seed: int, difficulty: float) -> Problem:
        leads = dict(notes)
        steps, name = [], start
        while name in leads:
            steps.append(f"{name}={leads[name]}")
            name = leads[name]
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt="notes: " + ", ".join([f"{name}={value}" for name, value in notes]) + f"\nfollow {start}",
            steps=tuple(steps),
            answer=name,
            canonical=_canonical(notes, start),
            data={"notes": [list(note) for note in notes], "start": start},
        )


def _draw_names(rng: random.Random, count: int) -> list[str]:
    return rng.sample(NAMES[2 if count <= MOST_SHORT else 3], count)


def _chains(notes: Notes) -> list[list[str]]:
    """The chains of ``notes``, each a list of names and the number at its end left out; rings are left out."""
    leads = dict(notes)
    chains = []
    for head in leads.keys() - leads.values():
        chain = [head]
        while (name := leads[chain[-1]]) in leads:
            chain.append(name)
        chains.append(chain)
    return chains


def _canonical(notes: Notes, start: str) -> str:
    """Each chain as its length and number, sorted; the one asked about also tells at which link it is entered."""
    leads = dict(notes)
    told = []
    for chain in _chains(notes):
        entered = f"@{chain.index(start)}" if start in chain else ""
        told.append(f"{len(chain)}:{leads[chain[-1]]}{entered}")
    return " ".join(sorted(told))
