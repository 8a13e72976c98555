"""Procedures: carry out told instructions on a row of numbers or letters, one line for every state.

Accepted steps: one line for every instruction, in order: the instruction as it is told, and the row after it (the same
row where its condition does not hold), as in ``rotate left 2: 7 4 9 1``. The answer repeats the last row; a problem has
exactly one accepted solution.

Two problems are the same where they differ in wording only, or in the letters, as long as nothing depends on them:
with instructions that sort or compare only the order of the letters counts, with others not even that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from outthink.tasks.dials import geometric, linear, override, whole, within
from outthink.tasks.instructions import (
    BY_ORDER,
    BY_VALUE,
    LETTERS,
    ONLY,
    WORDINGS,
    Instruction,
    Row,
    read_instruction,
    read_row,
    show_row,
)
from outthink.tasks.oracle import begins
from outthink.tasks.problem import Problem, check_difficulty, rng_for

MAX_INSTRUCTIONS, MAX_PROMPT = 40, 2000
SEPARATORS = ("; ", ", then ")
OPERATIONS = {kind: tuple(name for name in WORDINGS if ONLY.get(name, kind) == kind) for kind in ("list", "letters")}


@dataclass(frozen=True)
class ProceduresDials:
    """The settings of one problem; fractions are rounded up or down by chance.

    ``instructions``: how many (1..6 over difficulty 0..1). ``length``: of the row (3..8). ``conditions``: the share of
    instructions with a condition (0..0.4). ``letters``: the share of problems on letters (0.5). ``largest``: number
    (9..99).
    """

    instructions: float
    length: float
    conditions: float
    letters: float
    largest: float

    def __post_init__(self) -> None:
        within("instructions", self.instructions, 1, MAX_INSTRUCTIONS)
        within("length", self.length, 3, 30)
        within("conditions", self.conditions, 0, 1)
        within("letters", self.letters, 0, 1)
        within("largest", self.largest, 1, 999)

    @staticmethod
    def at(difficulty: float) -> ProceduresDials:
        return ProceduresDials(
            instructions=linear(1, 6, difficulty),
            length=linear(3, 8, difficulty),
            conditions=linear(0, 0.4, difficulty),
            letters=0.5,
            largest=geometric(9, 99, difficulty),
        )


class Procedures:
    """Told procedures on lists and letters; the dials are ProceduresDials."""

    name = "procedures"
    summary = "Carry out instructions on a row of numbers or letters."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, instructions=20)``."""
        settings = override(ProceduresDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        row: Row
        length = whole(rng, settings.length)
        if rng.random() < settings.letters:
            row = tuple(LETTERS[int(rng.random() * len(LETTERS))] for _ in range(length))
        else:
            row = tuple(1 + int(rng.random() * settings.largest) for _ in range(length))
        instructions, state = [], row
        for _ in range(whole(rng, settings.instructions)):
            instructions.append(_draw_instruction(rng, state, settings.conditions))
            state = instructions[-1].carry_out(state)
        return self._problem(row, instructions, [0] * len(instructions), SEPARATORS[0], seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.split() == problem.answer.split()

    def extendable(self, problem: Problem, partial: str) -> bool:
        return begins(partial, problem.solution)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """In other words, and with other letters where that changes nothing."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        row: Row = tuple(problem.data["row"])
        instructions = [read_instruction(text) for text in problem.data["instructions"]]
        known = [instruction for instruction in instructions if instruction is not None]
        told = [int(rng.random() * 2) for _ in known]
        row = _rename(rng, row, known)
        separator = SEPARATORS[int(rng.random() * 2)]
        return self._problem(row, known, told, separator, problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a row and its instructions in any of the wordings, where they can be done; else None."""
        kind, _, rest = prompt.strip().partition(" ")
        listed, colon, text = rest.partition(": ")
        if kind not in OPERATIONS or not colon or len(prompt) > MAX_PROMPT:
            return None
        row = read_row(kind, listed)
        separator = next((separator for separator in SEPARATORS if separator in text), SEPARATORS[0])
        instructions = [read_instruction(part) for part in text.split(separator)]
        if row is None or len(instructions) > MAX_INSTRUCTIONS:
            return None
        known, state = [], row
        for instruction in instructions:
            if instruction is None or not instruction.fits(state):
                return None
            state = instruction.carry_out(state)
            known.append(instruction)
        return self._problem(row, known, [0] * len(known), SEPARATORS[0], 0, 0.0)

    def _problem(
        self,
        row: Row,
        instructions: Sequence[Instruction],
        wordings: Sequence[int],
        separator: str,
        seed: int,
        difficulty: float,
    ) -> Problem:
        kind = "list" if isinstance(row[0], int) else "letters"
        told = [instruction.tell(wording) for instruction, wording in zip(instructions, wordings, strict=True)]
        steps, state = [], row
        for instruction, text in zip(instructions, told, strict=True):
            state = instruction.carry_out(state)
            steps.append(f"{text}: {show_row(state)}")
        standard = [instruction.tell() for instruction in instructions]
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=f"{kind} {show_row(row)}: {separator.join(told)}",
            steps=tuple(steps),
            answer=show_row(state),
            canonical=f"{kind} {show_row(_pattern(row, instructions))}: {'; '.join(standard)}",
            data={"row": list(row), "instructions": standard},
        )


def _draw_instruction(rng: random.Random, row: Row, conditions: float) -> Instruction:
    """An instruction that fits ``row``; a row of two or fewer items is not made shorter."""
    names = OPERATIONS["list" if isinstance(row[0], int) else "letters"]
    while True:
        operation = names[int(rng.random() * len(names))]
        first = 1 + int(rng.random() * len(row))
        numbers: tuple[int, ...] = (first,) if "{0}" in WORDINGS[operation][0] else ()
        if operation == "swap":
            numbers = tuple(sorted((first, 1 + int(rng.random() * len(row)))))
        elif operation == "every":
            numbers = (2 + int(rng.random() * 2),)
        instruction = Instruction(operation, numbers)
        if instruction.fits(row) and (len(row) > 2 or operation not in ("every", "drop")):
            break
    if rng.random() >= conditions:
        return instruction
    if rng.random() < 0.5:
        return Instruction(operation, numbers, "falls")
    return Instruction(operation, numbers, "long", max(1, len(row) - 1 + int(rng.random() * 2)))


def _dependence(instructions: Sequence[Instruction]) -> str:
    """What the procedure uses of letters: their ``value``, their ``order`` or ``none`` of it."""
    used = {name for instruction in instructions for name in (instruction.operation, instruction.condition)}
    return "value" if used.intersection(BY_VALUE) else "order" if used.intersection(BY_ORDER) else "none"


def _pattern(row: Row, instructions: Sequence[Instruction]) -> Sequence[int | str]:
    """``row``, its letters numbered by order or by first appearance where no more than that counts."""
    dependence = _dependence(instructions)
    if isinstance(row[0], int) or dependence == "value":
        return row
    different = sorted(set(row)) if dependence == "order" else list(dict.fromkeys(row))
    return [different.index(letter) for letter in row]


def _rename(rng: random.Random, row: Row, instructions: Sequence[Instruction]) -> Row:
    """``row`` with other letters, of which as much is kept as the procedure depends on."""
    pattern = _pattern(row, instructions)
    if isinstance(row[0], int) or pattern == row:
        return row
    letters = rng.sample(LETTERS, len(set(row)))
    if _dependence(instructions) == "order":
        letters.sort()
    return tuple(letters[int(place)] for place in pattern)
