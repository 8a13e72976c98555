"""The laws of the `Family` protocol: what training, checking and measuring may rely on, whoever implements it."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from outthink.core.errors import TaskError
from outthink.tasks.problem import Family, Problem, parse_answer

Draw = tuple[int, float]
NONSENSE = (
    "",
    " ",
    "?",
    "answer:",
    "none of these",
    "1/0",
    "²",
    "٣ ٤",
    "\x00",
    "-",
    "(" * 3000,
    "9" * 5000,
    "a>" * 999,
)
_DIGITS, _LETTERS = "0123456789", "abcdefghijklmnopqrstuvwxyz"


def check_family(
    family: Family,
    draws: Iterable[Draw],
    is_right: Callable[[Problem, str], bool] | None = None,
    max_chars: int = 2000,
) -> None:
    """Raise AssertionError, naming the law and the problem, unless ``family`` keeps all laws on all ``draws``.

    A draw is a seed and a difficulty. ``is_right`` judges answers independently of the family's checker; without it an
    answer is right where its words, in any order, are those of gold's. ``max_chars`` bounds prompt and solution.
    """
    difficulties_are_bounded(family)
    told_otherwise = False
    for seed, difficulty in draws:
        problem = family.generate(seed, difficulty)
        case = _Case(family, problem, is_right or _same_words)
        for law in LAWS:
            law(case)
        size = len(problem.prompt) + len(problem.solution)
        assert size <= max_chars, case.says(f"prompt and solution have {size} characters, more than {max_chars}")
        told_otherwise = told_otherwise or family.rerender(problem, seed).prompt != problem.prompt
    assert told_otherwise, f"{family.name}: no re-rendering changed a prompt"


def check_splits(problems: Iterable[Problem]) -> None:
    """Raise AssertionError where two problems share a text or a canonical form but not the split."""
    splits: dict[str, str] = {}
    for problem in problems:
        for key in (problem.key, "=" + problem.canonical_key):
            known = splits.setdefault(key, problem.split)
            assert known == problem.split, f"in {known} and in {problem.split}: {problem.prompt!r}"


def digest(families: Iterable[Family], draws: Iterable[Draw]) -> str:
    """A hash of all that is generated and re-rendered for ``draws``: equal on every machine and in every process."""
    made = hashlib.blake2b(digest_size=16)
    draws = list(draws)
    for family in families:
        for seed, difficulty in draws:
            problem = family.generate(seed, difficulty)
            for told in (problem, family.rerender(problem, seed)):
                made.update(f"{told.prompt}\0{told.solution}\0{told.canonical}\0{json.dumps(told.data)}".encode())
    return made.hexdigest()


def difficulties_are_bounded(family: Family) -> None:
    """A difficulty outside 0..1 is a TaskError."""
    for difficulty in (-0.01, 1.01, math.inf, math.nan):
        try:
            family.generate(1, difficulty)
        except TaskError:
            continue
        raise AssertionError(f"{family.name}: difficulty {difficulty} is accepted")


class _Case:
    def __init__(self, family: Family, problem: Problem, is_right: Callable[[Problem, str], bool]) -> None:
        self.family, self.problem, self.is_right = family, problem, is_right
        self.rng = random.Random(f"{family.name}/{problem.seed}/{problem.difficulty}")

    def says(self, what: str) -> str:
        return f"{self.family.name} seed={self.problem.seed} difficulty={self.problem.difficulty}: {what}"

    def assert_solved(self, problem: Problem, cuts: int) -> None:
        """Gold is right, and so is its beginning at every line and at ``cuts`` other characters."""
        solution = problem.solution
        assert self.family.check(problem, problem.answer), self.says(f"gold answer rejected: {problem.answer!r}")
        ends = {0, len(solution)}
        ends.update(index + plus for index, char in enumerate(solution) if char == "\n" for plus in (0, 1))
        ends.update(self.rng.randrange(len(solution)) for _ in range(cuts))
        for end in sorted(ends):
            assert self.family.extendable(problem, solution[:end]), self.says(f"gold is cut off: {solution[:end]!r}")


def generation_is_deterministic(case: _Case) -> None:
    """The same seed and difficulty give the same problem, re-rendering too."""
    problem = case.problem
    again = case.family.generate(problem.seed, problem.difficulty)
    assert again == problem and again.data == problem.data, case.says("generated twice, two problems")
    first, second = (case.family.rerender(problem, 5) for _ in range(2))
    assert first == second and first.data == second.data, case.says("re-rendered twice, two problems")


def texts_are_plain(case: _Case) -> None:
    """Texts are printable ASCII without blank lines, and the data survives JSON."""
    problem = case.problem
    for line in (*problem.prompt.split("\n"), *problem.steps, problem.answer):
        assert line.isascii() and line.isprintable() and line.strip() == line != "", case.says(f"line {line!r}")
    stored = replace(problem, data=json.loads(json.dumps(problem.data)))
    assert stored.data == problem.data, case.says("data changes when stored as JSON")
    assert parse_answer(problem.solution) == problem.answer, case.says("the answer is not what the solution states")


def gold_is_right(case: _Case) -> None:
    """Gold passes the checker, an independent judge, and the step oracle wherever it is cut."""
    problem = case.problem
    case.assert_solved(problem, 8)
    assert case.is_right(problem, problem.answer), case.says(f"gold is wrong: {problem.answer!r}")
    assert case.family.extendable(problem, problem.solution + "\n"), case.says("a finished solution is refused")


def wrong_answers_are_rejected(case: _Case) -> None:
    """Checker and independent judge agree on answers near gold; what is no answer is False."""
    problem, family = case.problem, case.family
    for text in NONSENSE:
        assert family.check(problem, text) is False, case.says(f"nonsense accepted as answer: {text[:40]!r}")
    for answer in _mutants(case.rng, problem.answer, 6):
        found, expected = family.check(problem, answer), case.is_right(problem, answer)
        assert found == expected, case.says(f"answer {answer!r} judged {found}, is {expected}")


def dead_ends_are_seen(case: _Case) -> None:
    """No line of nonsense and no wrong answer can be gone on from; whatever is a beginning of those still can."""
    problem, family = case.problem, case.family
    lines = problem.solution.split("\n")
    told = lines[: case.rng.randrange(len(lines))]
    for line in ("zzz ?\n", "\n", "\x00", "answer:\n", "0 0 0 0\n"):
        text = "".join(f"{line}\n" for line in told) + line
        assert not family.extendable(problem, text), case.says(f"said to be extendable: {text!r}")
    start = problem.solution[: -len(problem.answer)]
    for answer in _mutants(case.rng, problem.answer, 4):
        finished = f"{start}{answer}\n"
        if not family.check(problem, answer):
            assert not family.extendable(problem, finished), case.says(f"wrong, said to be extendable: {finished!r}")


def oracle_is_closed(case: _Case) -> None:
    """A beginning of what is extendable is extendable: once a partial solution is wrong it stays wrong."""
    problem, family = case.problem, case.family
    for text in _mutants(case.rng, problem.solution, 3):
        verdicts = [family.extendable(problem, text[:end]) for end in sorted(case.rng.sample(range(len(text) + 1), 5))]
        assert verdicts == sorted(verdicts, reverse=True), case.says(f"wrong, then right again: {text!r}")
        if family.extendable(problem, text + "\n"):
            answer = parse_answer(text)
            assert answer is not None and family.check(problem, answer), case.says(f"wrong but accepted: {text!r}")


def rerendering_keeps_the_problem(case: _Case) -> None:
    """Told otherwise it has the same canonical form and split, and its own gold passes."""
    problem = case.problem
    again = case.family.rerender(problem, case.rng.getrandbits(32))
    assert again.family == problem.family and again.canonical_key == problem.canonical_key, case.says(
        f"re-rendered as another problem: {again.prompt!r}"
    )
    assert again.split == problem.split, case.says("re-rendered into another split")
    case.assert_solved(again, 3)
    assert case.is_right(again, again.answer), case.says(f"re-rendered gold is wrong: {again.answer!r}")


def prompts_are_read(case: _Case) -> None:
    """A prompt is read as the problem that it states, re-rendered too; other texts are not read."""
    problem, family = case.problem, case.family
    for told in (problem, family.rerender(problem, case.rng.getrandbits(32))):
        read = family.read(told.prompt)
        assert read is not None, case.says(f"own prompt not read: {told.prompt!r}")
        assert read.canonical == problem.canonical, case.says(f"read as another problem: {told.prompt!r}")
        assert family.check(told, read.answer), case.says(f"read with answer {read.answer!r}")
    for text in (*NONSENSE, "hello there", problem.prompt + " zzz ?", problem.prompt[: len(problem.prompt) // 3]):
        read = family.read(text)
        assert read is None or family.check(read, read.answer), case.says(f"misread: {text!r}")


LAWS = (
    generation_is_deterministic,
    texts_are_plain,
    gold_is_right,
    wrong_answers_are_rejected,
    dead_ends_are_seen,
    oracle_is_closed,
    rerendering_keeps_the_problem,
    prompts_are_read,
)


def _same_words(problem: Problem, answer: str) -> bool:
    return sorted(answer.replace(",", " ").split()) == sorted(problem.answer.replace(",", " ").split())


def _mutants(rng: random.Random, text: str, count: int) -> list[str]:
    """Other texts, each of them ``text`` with one character replaced, dropped or doubled."""
    found = []
    for _ in range(count):
        place = rng.randrange(len(text))
        char = text[place]
        pool = _DIGITS if char in _DIGITS else _LETTERS if char in _LETTERS else " +-*"
        changed = rng.choice((rng.choice(pool), rng.choice(pool), "", char + char))
        found.append(text[:place] + changed + text[place + 1 :])
    return [mutant for mutant in found if mutant.strip() != text]
