"""The laws of the family protocol over every registered family, and broken families that the laws must catch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from itertools import pairwise

import pytest

from outthink.core import registry
from outthink.core.errors import TaskError, UnknownNameError
from outthink.tasks import suites
from outthink.tasks.arithmetic import Arithmetic
from outthink.tasks.families import FAMILIES, family_names, get_family, read_problem
from outthink.tasks.laws import check_family, check_splits, digest
from outthink.tasks.problem import Family, Problem
from outthink.tasks.suites import CORE, Suite, draw, draw_problems, functional, get_suite, suite_names

NAMES = family_names()


class Exact(int):
    """A whole number whose divisions must leave nothing over."""

    def __add__(self, other):
        return Exact(int(self) + int(other))

    def __sub__(self, other):
        return Exact(int(self) - int(other))

    def __mul__(self, other):
        return Exact(int(self) * int(other))

    def __neg__(self):
        return Exact(-int(self))

    def __truediv__(self, other):
        if other == 0 or int(self) % int(other):
            raise ArithmeticError
        return Exact(int(self) // int(other))


def python_value(text: str, **names: int) -> int | None:
    """The value of an expression as Python sees it, numbers exact; None where it has none."""
    try:
        return int(eval(re.sub(r"\d+", lambda number: f"Exact({int(number[0])})", text), {"Exact": Exact}, names))
    except (SyntaxError, TypeError, ArithmeticError, NameError):
        return None


def right_countdown(problem: Problem, answer: str) -> bool:
    if not re.fullmatch(r"[0-9+\-*/() ]+", answer) or re.search(r"//|\*\*|(?:^|[-+*/(])\s*[-+]", answer):
        return False
    given, target = Counter(problem.data["numbers"]), problem.data["target"]
    used = Counter(int(number) for number in re.findall(r"\d+", answer))
    return used <= given and python_value(answer) == target


def right_sequence(problem: Problem, answer: str) -> bool:
    terms = [*problem.data["shown"], *problem.data["hidden"]]
    if not re.fullmatch(r"(?:[0-9nab+\-*() ]|mod)+", answer) or re.search(r"\*\*|(?:^|[-+*(d])\s*\+", answer):
        return False
    start = 2 if "b" in answer else 1 if re.search(r"a", answer) else 0
    text = answer.replace("mod", "%")
    if re.search(r"[nab0-9)]\s*[nab(]|[nab)]\s*[0-9]|[0-9]\s+[0-9]", text):
        return False
    places = range(start, len(terms))
    values = [python_value(text, n=Exact(i + 1), a=Exact(terms[i - 1]), b=Exact(terms[i - 2])) for i in places]
    return values == terms[start:]


def right_path(problem: Problem, answer: str) -> bool:
    nodes = [node.strip() for node in answer.split(">")]
    edges = {(source, target) for source, target in problem.data["edges"]}
    return (nodes[0], nodes[-1]) == (problem.data["start"], problem.data["goal"]) and set(pairwise(nodes)) <= edges


def right_houses(problem: Problem, answer: str) -> bool:
    def parts(text: str) -> list[list[str]]:
        together = text.replace(",", " ") if "who comes?" in problem.prompt else text
        return [sorted(part.split()) for part in together.split(",")]

    return parts(answer) == parts(problem.answer)


RIGHT = {"countdown": right_countdown, "sequences": right_sequence, "paths": right_path, "constraints": right_houses}


def draws(count: int) -> list[tuple[int, float]]:
    return [(seed, (seed % 21) / 20) for seed in range(count)]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("name", NAMES)
def test_laws_hold(name: str) -> None:
    check_family(get_family(name), draws(200), RIGHT.get(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("name", NAMES)
def test_laws_hold_on_many_problems(name: str) -> None:
    check_family(get_family(name), draws(10_000), RIGHT.get(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_of_gold_can_still_become_right(name: str) -> None:
    family = get_family(name)
    for seed, difficulty in draws(10_000):
        problem = family.generate(seed, difficulty)
        for end in range(len(problem.solution) + 1):
            assert family.extendable(problem, problem.solution[:end]), (seed, difficulty, problem.solution[:end])


class TooGenerous(Arithmetic):
    """Its step oracle always says yes."""

    def extendable(self, problem: Problem, partial: str) -> bool:
        return True


class OnlyGold(Arithmetic):
    """Its step oracle forgets that an unfinished line is no mistake yet."""

    def extendable(self, problem: Problem, partial: str) -> bool:
        return partial == "" or (partial.endswith("\n") and problem.solution.startswith(partial))


class AnyNumber(Arithmetic):
    """Its checker takes every number for the answer."""

    def check(self, problem: Problem, answer: str) -> bool:
        return bool(re.fullmatch(r"-?\d{1,9}", answer))


class Forgetful(Arithmetic):
    """Every problem that it generates depends on how many came before."""

    count = 0

    def generate(self, seed: int, difficulty: float) -> Problem:
        self.count += 1
        return super().generate(seed + self.count, difficulty)


class AnotherProblem(Arithmetic):
    """Its re-rendering is the problem of another seed."""

    def rerender(self, problem: Problem, seed: int) -> Problem:
        return self.generate(problem.seed + 1, problem.difficulty)


class NoBounds(Arithmetic):
    """It takes any difficulty."""

    def generate(self, seed: int, difficulty: float) -> Problem:
        return super().generate(seed, min(1.0, max(0.0, difficulty)))


class Forgiving(Arithmetic):
    """A wrong line is forgiven once a right one follows: what was wrong becomes right again."""

    def extendable(self, problem: Problem, partial: str) -> bool:
        kept = [line for line in partial.split("\n")[:-1] if line in problem.solution.split("\n")]
        last = partial.split("\n")[-1]
        return super().extendable(problem, "".join(f"{line}\n" for line in kept) + last)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TooGenerous, "said to be extendable"),
        (OnlyGold, "gold is cut off"),
        (AnyNumber, "judged True, is False"),
        (Forgetful, "generated twice"),
        (AnotherProblem, "re-rendered as another problem"),
        (NoBounds, "is accepted"),
        (Forgiving, "said to be extendable"),
    ],
)
def test_laws_catch(broken: type[Family], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_family(broken(), draws(40))


def test_laws_bound_the_length() -> None:
    with pytest.raises(AssertionError, match="more than 100"):
        check_family(Arithmetic(), draws(40), max_chars=100)


def test_generation_does_not_depend_on_the_process() -> None:
    code = (
        "from outthink.tasks.families import family_names, get_family; from outthink.tasks.laws import digest; "
        "print(digest(map(get_family, family_names()), [(s, s % 5 / 4) for s in range(60)]))"
    )
    here = digest(map(get_family, NAMES), [(seed, seed % 5 / 4) for seed in range(60)])
    for hash_seed in ("1", "77"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        there = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here
    assert digest([get_family("arithmetic")], [(1, 0.5)]) != digest([get_family("arithmetic")], [(2, 0.5)])


def many(count: int):
    """Problems of all families and difficulties, half of them easy, so that many are met twice; and re-renderings."""
    for name in NAMES:
        for seed in range(count // len(NAMES) // 2):
            problem = get_family(name).generate(seed, 0.0 if seed % 2 else (seed % 101) / 100)
            yield problem
            yield problem.rerender(seed)


def test_splits_are_disjoint() -> None:
    check_splits(many(20_000))


@pytest.mark.slow
def test_splits_are_disjoint_on_a_million_draws() -> None:
    check_splits(many(1_000_000))


@dataclass(frozen=True)
class SplitBySeed(Problem):
    """A problem whose split depends on the seed that drew it."""

    @property
    def split(self):
        return "test" if self.seed % 10 == 0 else "train"


@dataclass(frozen=True)
class SplitByText(Problem):
    """A problem whose split depends on how it is told."""

    @property
    def split(self):
        return "test" if int(self.key, 16) % 10 == 0 else "train"


@pytest.mark.parametrize("broken", [SplitBySeed, SplitByText])
def test_a_wrong_split_is_caught(broken: type[Problem]) -> None:
    with pytest.raises(AssertionError, match=r"in test and in train|in train and in test"):
        check_splits(broken(**vars(problem)) for problem in many(20_000))


def test_split_shares() -> None:
    """10% test and 5% validation: 2,000 different problems are within 5 standard errors (error rate below 1e-5)."""
    splits = {p.canonical_key: p.split for p in (get_family("arithmetic").generate(s, 0.7) for s in range(2000))}
    shares = Counter(splits.values())
    for split, share in (("test", 0.1), ("validation", 0.05), ("train", 0.85)):
        assert abs(shares[split] - share * len(splits)) < 5 * (share * (1 - share) * len(splits)) ** 0.5


def test_suites() -> None:
    core = get_suite("outthink-core")
    for split in ("train", "validation", "test"):
        stream = core.stream(split, 7)
        problems = [next(stream) for _ in range(300)]
        assert {problem.split for problem in problems} == {split}
    counts = Counter(problem.family for problem in problems)
    # Each of 10 families has a share of 0.1 of 300: 30 with a standard deviation of 5.2; 5 of them are 26.
    assert set(counts) == set(CORE) == set(NAMES) and all(4 <= count <= 56 for count in counts.values())
    for low in (0.0, 0.25, 0.5, 0.75):
        assert 37 <= sum(low <= problem.difficulty < low + 0.25 for problem in problems) <= 113
    assert problems == [problem for problem, _ in zip(core.stream("test", 7), range(300), strict=False)]
    assert problems[0] != next(core.stream("test", 8))
    assert {suite.name for suite in map(get_suite, suite_names())} == set(suite_names())


def test_samples_are_distinct() -> None:
    sample = get_suite("outthink-core").sample("test", 120, 3)
    assert len({problem.canonical_key for problem in sample}) == len(sample) == 120
    drawn = draw_problems("countdown", 0.4, "validation", 30, 3)
    assert len({problem.canonical_key for problem in drawn}) == 30
    assert {(problem.split, problem.difficulty, problem.family) for problem in drawn} == {
        ("validation", 0.4, "countdown")
    }
    assert draw_problems("countdown", 0.4, "validation", 30, 4) != drawn


class Narrow(Arithmetic):
    """It has 45 problems: sums of two digits from 1 to 9."""

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, 0.0, digits=1)


def test_asking_for_more_problems_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "get_family", lambda name: Narrow())
    canonical = {f"+{a}+{b}" for a in range(1, 10) for b in range(a, 10)}
    found = {problem.canonical for problem in (Narrow().generate(seed, 0.0) for seed in range(2000))}
    assert found == canonical
    there = sum(Narrow().read(text[1:]).split == "train" for text in canonical)
    assert len(draw_problems("narrow", 0.0, "train", there, 1)) == there
    with pytest.raises(TaskError, match=f"fewer than {there + 1} distinct problems of this split: {there} came up"):
        draw_problems("narrow", 0.0, "train", there + 1, 1)
    monkeypatch.setattr(suites, "MOST_DRAWS", 1)
    with pytest.raises(TaskError, match="no test problem in 1 draws"):
        draw_problems("narrow", 0.0, "test", 20, 1)


def test_functional_suites_tell_the_same_problems_otherwise() -> None:
    plain, told = get_suite("outthink-core"), get_suite("outthink-core-functional")
    assert told == functional(plain)
    pairs = [
        pair
        for pair, _ in zip(zip(plain.stream("test", 5), told.stream("test", 5), strict=False), range(100), strict=False)
    ]
    assert all(a.canonical_key == b.canonical_key and b.check(b.answer) for a, b in pairs)
    assert sum(a.prompt != b.prompt for a, b in pairs) > 60


def test_draw_walks_to_the_split() -> None:
    for seed in range(20):
        problem = draw("procedures", seed, 0.3, "test")
        assert problem.split == "test" and problem == get_family("procedures").generate(problem.seed, 0.3)
    assert len({draw("procedures", seed, 0.3, "test").prompt for seed in range(20)}) == 20


def test_wrong_names_and_suites() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Unknown task family 'arithmetik'\. Did you mean 'arithmetic'.*countdown"
    ):
        get_family("arithmetik")
    with pytest.raises(UnknownNameError, match="Unknown suite 'outthink'"):
        get_suite("outthink")
    with pytest.raises(TaskError, match="share above 0"):
        Suite("empty", ())
    with pytest.raises(TaskError, match=r"outside 0\.\.1"):
        Suite("far", (("arithmetic", 1.0),), hardest=1.5)
    with pytest.raises(TaskError, match="above hardest"):
        Suite("swapped", (("arithmetic", 1.0),), easiest=0.8, hardest=0.2)
    with pytest.raises(UnknownNameError):
        next(Suite("wrong", (("arithmetik", 1.0),)).stream("test", 0))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_belong_to_one_family(name: str) -> None:
    for seed in range(20):
        problem = get_family(name).generate(seed, seed / 19)
        for told in (problem, problem.rerender(seed)):
            read = read_problem(told.prompt)
            assert read is not None and (read.family, read.canonical) == (name, problem.canonical)
    assert read_problem("what is the meaning of life?") is None


def test_a_family_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys; from outthink.tasks.families import family_names, get_family; family_names(); "
        "assert not any(m in sys.modules for m in ('outthink.tasks.arithmetic', 'outthink.tasks.paths', 'torch')); "
        "get_family('arithmetic'); "
        "assert 'outthink.tasks.arithmetic' in sys.modules and 'outthink.tasks.paths' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


class Doubling(Arithmetic):
    """A user's own family."""

    name = "doubling"
    summary = "Arithmetic under another name."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return replace(super().generate(seed, difficulty), family=self.name)


def test_plugins_join_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("doubling", f"{__name__}:Doubling", FAMILIES.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == FAMILIES.group else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Doubling)
    get_family.cache_clear()
    try:
        assert set(family_names()) == {*NAMES, "doubling"}
        problem = get_family("doubling").generate(3, 0.5)
        assert problem.check(problem.answer) and problem.extendable(problem.solution)
        assert next(get_suite("doubling").stream("test", 1)).family == "doubling"
        assert {family for family, _ in get_suite("outthink-core").shares} == set(CORE)
    finally:
        get_family.cache_clear()
