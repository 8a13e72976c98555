"""Procedures: every state against a second interpreter, the single accepted solution, renaming."""

from __future__ import annotations

import re
from string import ascii_lowercase as letters

import pytest

from outthink.core.errors import TaskError
from outthink.tasks.instructions import CONDITIONS, WORDINGS, Instruction, read_instruction
from outthink.tasks.problem import Problem
from outthink.tasks.procedures import Procedures
from solution_sets import check_oracle

procedures = Procedures()


def rank(item: str) -> int:
    return letters.index(item.lower()) if item.isalpha() else int(item)


def carried_out(text: str, row: list[str]) -> list[str]:
    """The row of words after one told instruction, worked out position by position."""
    if match := re.fullmatch(r"if first > last (.*)|if longer than (\d+) (.*)", text):
        holds = len(row) > int(match[2]) if match[2] else rank(row[0]) > rank(row[-1])
        return carried_out(match[1] or match[3], row) if holds else row
    words = text.split(" ")
    number = int(words[-1]) if words[-1].isdigit() else 0
    count = len(row)
    if words[0] == "reverse":
        return [row[count - 1 - i] for i in range(count)]
    if words[0] == "rotate":
        by = number if words[1] == "left" else count - number
        return [row[(i + by) % count] for i in range(count)]
    if words[0] == "swap":
        places = {int(words[1]): number, number: int(words[1])}
        return [row[places.get(i, i) - 1] for i in range(1, count + 1)]
    if words[:2] == ["drop", "every"]:
        return [row[i - 1] for i in range(1, count + 1) if i % number]
    if words[0] == "drop":
        return [row[i - 1] for i in range(1, count + 1) if i != number]
    if words[0] == "sort":
        left, found = list(row), []
        while left:
            found.append(left.pop(min(range(len(left)), key=lambda i: (rank(left[i]), i))))
        return found
    if words[0] == "add":
        return [str(int(item) + number) for item in row]
    if words[0] == "double":
        return [str(int(item) * 2) if i == number else item for i, item in enumerate(row, 1)]
    if words[0] == "uppercase":
        return [item.upper() if i == number else item for i, item in enumerate(row, 1)]
    assert words[0] == "shift"
    turned = letters[number:] + letters[:number]
    return [item.translate(str.maketrans(letters + letters.upper(), turned + turned.upper())) for item in row]


def solution(problem: Problem) -> str:
    start, _, told = problem.prompt.partition(": ")
    row, lines = start.split(" ")[1:], []
    for text in told.split("; "):
        row = carried_out(text, row)
        lines.append(f"{text}: {' '.join(row)}")
    return "\n".join([*lines, f"answer: {' '.join(row)}"])


def test_every_state_is_right() -> None:
    told = set()
    for seed in range(800):
        problem = procedures.generate(seed, (seed % 21) / 20)
        assert problem.solution == solution(problem)
        told.update(re.sub(r"\d+", "{0}", text) for text in problem.prompt.partition(": ")[2].split("; "))
    assert {wording[0].replace("{1}", "{0}") for wording in WORDINGS.values()} <= told
    assert any("if first" in text for text in told) and any("if longer" in text for text in told)


def test_exactly_one_solution_is_accepted() -> None:
    for seed in range(10):
        problem = procedures.generate(seed, seed / 9)
        check_oracle(lambda partial, problem=problem: procedures.extendable(problem, partial), [solution(problem)])


def test_an_oracle_that_compares_answers_only_is_caught() -> None:
    problem = procedures.generate(4, 0.5)

    def oracle(partial: str) -> bool:
        return partial.count("\n") < len(problem.steps) or problem.solution.startswith(partial)

    with pytest.raises(AssertionError, match="oracle says True"):
        check_oracle(oracle, [solution(problem)])


def test_checking() -> None:
    problem = procedures.read("list 4 7 1 9: reverse; rotate left 1; add 3; drop every 2")
    assert problem is not None
    assert problem.steps == ("reverse: 9 1 7 4", "rotate left 1: 1 7 4 9", "add 3: 4 10 7 12", "drop every 2: 4 7")
    assert problem.check("4 7") and problem.check(" 4  7 ")
    for answer in ("7 4", "4, 7", "47", "4 7 12", "", "4"):
        assert not problem.check(answer), answer
    mixed = procedures.read("letters b a: uppercase 1")
    assert mixed is not None and mixed.check("B a") and not mixed.check("b a")


def test_instructions_are_read_in_all_wordings() -> None:
    numbers = {"swap": (1, 3), "every": (2,)}
    for name, wordings in WORDINGS.items():
        count = wordings[0].count("{")
        for condition, limit in (("", 0), ("falls", 0), ("long", 4)):
            instruction = Instruction(name, numbers.get(name, (2,) * count), condition, limit)
            for wording in (0, 1):
                assert read_instruction(instruction.tell(wording)) == instruction
    assert set(CONDITIONS) == {"falls", "long"}
    for text in ("", "reverse it", "rotate left", "swap 1", "if first > last", "if longer than 2 if first > last sort"):
        assert read_instruction(text) is None, text


def test_procedures_that_cannot_be_done_are_not_read() -> None:
    for text in (
        "list 4 7 1: swap 1 and 4",
        "list 4 7 1: rotate left 3",
        "list 4 7 1: drop 0",
        "list 4 7 1: drop 1; drop 1; drop 1",
        "list 4 7 1: drop every 1",
        "list 4 7 1: uppercase 1",
        "letters a b c: add 3",
        "letters a b cc: reverse",
        "letters a B c: reverse",
        "list 4 seven: reverse",
        "list 4 7",
        "list: reverse",
        "words 4 7: reverse",
        "list 4 7: " + "reverse; " * 60 + "reverse",
        "list " + "1 " * 60 + "1: reverse",
    ):
        assert procedures.read(text) is None, text


def canonical(prompt: str) -> str:
    problem = procedures.read(prompt)
    assert problem is not None, prompt
    return problem.canonical


def test_letters_are_renamed_as_far_as_nothing_depends_on_them() -> None:
    assert canonical("letters c a b a: reverse; swap 1 and 2") == canonical(
        "letters x z y z: reverse, then swap 1 and 2"
    )
    assert canonical("letters c a b a: reverse") != canonical("letters c a b b: reverse")
    assert canonical("letters c a b: sort; drop 1") == canonical("letters z f g: put in order; delete position 1")
    assert canonical("letters c a b: sort") != canonical("letters a c b: sort")
    assert canonical("letters c a b: if first > last reverse") != canonical("letters a b c: if first > last reverse")
    assert canonical("letters a b c: shift 1") != canonical("letters b c d: shift 1")
    assert canonical("list 1 2 3: reverse") != canonical("letters a b c: reverse")
    problem = procedures.read("letters c a b: sort; reverse")
    assert problem is not None
    told = [problem.rerender(seed) for seed in range(50)]
    assert len({again.data["row"][0] for again in told}) > 5
    for again in told:
        first, second, third = again.data["row"]
        assert second < third < first and again.canonical == problem.canonical


def test_dials() -> None:
    for seed in range(20):
        problem = procedures.build(seed, 0.5, instructions=12, length=20, letters=1, conditions=0)
        assert len(problem.steps) == 12 and len(problem.data["row"]) == 20
        assert problem.prompt.startswith("letters") and "if " not in problem.prompt
        assert procedures.build(seed, 0.5, letters=0, conditions=1).prompt.count("if ") == len(
            procedures.build(seed, 0.5, letters=0, conditions=1).steps
        )
    with pytest.raises(TaskError, match="Dial 'length' is 1"):
        procedures.build(1, 0.5, length=1)
