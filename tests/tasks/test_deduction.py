"""Deduction: forward chaining against truth tables, the step oracle against an enumeration of all proofs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest

from outthink.core.errors import TaskError
from outthink.tasks.deduction import Deduction
from outthink.tasks.oracle import follows
from outthink.tasks.problem import Problem
from solution_sets import check_oracle, check_problem, check_rerendering

deduction = Deduction()

Rules = list[tuple[tuple[str, ...], str, bool]]
Facts = list[tuple[str, str, bool]]


def read(prompt: str) -> tuple[Facts, Rules, str, str]:
    """Facts (thing, predicate, sign), rules (premises, predicate, sign) and the question."""
    told, question = prompt.split("\n")
    facts, rules = [], []
    for sentence in told.rstrip(".").split(". "):
        words = sentence.split()
        sign = "not" not in words
        if "things" in words:
            rules.append((tuple(words[: words.index("things")]), words[-1], sign))
        else:
            facts.append((words[0], words[-1], sign))
    subject, asked = re.fullmatch(r"is (\w+) (\w+)\?", question).groups()  # type: ignore[union-attr]
    return facts, rules, subject, asked


def entailed(prompt: str) -> str:
    """What classical logic says, by the truth of every sentence in every world."""
    facts, rules, subject, asked = read(prompt)
    possible: set[bool] = set()
    for thing in {subject, *(fact[0] for fact in facts)}:
        predicates = sorted({asked, *(f[1] for f in facts), *(p for r in rules for p in (*r[0], r[1]))})
        models = set()
        for values in product([False, True], repeat=len(predicates)):
            world = dict(zip(predicates, values, strict=True))
            if all(world[p] == sign for other, p, sign in facts if other == thing) and all(
                world[p] == sign for premises, p, sign in rules if all(world[q] for q in premises)
            ):
                models.add(world[asked])
        assert models, "every thing has a model: the theory does not contradict itself"
        if thing == subject:
            possible = models
    return {(True,): "yes", (False,): "no", (False, True): "unknown"}[tuple(sorted(possible))]


def small(seed: int) -> Problem:
    return deduction.build(seed, 0.4, depth=1 + seed % 3, dead=2, live=1, facts=1, things=1 + seed % 2, pairs=0.4)


def test_answers_agree_with_truth_tables() -> None:
    answers = Counter()
    for seed in range(45):
        problem = small(seed)
        assert problem.answer == entailed(problem.prompt), problem.prompt
        answers[problem.answer] += 1
    assert set(answers) == {"yes", "no", "unknown"} and min(answers.values()) >= 8


def accepted_solutions(problem: Problem) -> list[str]:
    """Every proof: all orders of rules that apply, each with every place at which the answer may come."""
    facts, rules, subject, asked = read(problem.prompt)

    def proofs(known: frozenset[tuple[str, bool]], lines: list[str]) -> Iterator[str]:
        decided = (asked, True) in known or (asked, False) in known
        more = False
        for premises, predicate, sign in rules:
            if (predicate, sign) not in known and all((p, True) in known for p in premises):
                more = True
                line = f"{' '.join(premises)} so {'' if sign else 'not '}{predicate}"
                yield from proofs(known | {(predicate, sign)}, [*lines, line])
        if decided or not more:
            yield "\n".join([*lines, "answer: " + entailed(problem.prompt)])

    return list(proofs(frozenset((p, sign) for thing, p, sign in facts if thing == subject), []))


def test_oracle_accepts_exactly_the_proofs() -> None:
    num_solutions = 0
    for seed in range(18):
        problem = small(seed)
        solutions = accepted_solutions(problem)
        num_solutions += len(solutions)
        assert problem.solution in solutions
        check_oracle(lambda partial, problem=problem: deduction.extendable(problem, partial), solutions)
    assert num_solutions > 30  # several proofs a problem


@pytest.mark.parametrize("fault", ["premises", "haste"])
def test_broken_oracles_are_caught(fault: str) -> None:
    """One oracle applies rules whose premises are not known, one says unknown while rules still apply."""
    problem = next(p for p in map(small, range(50)) if p.answer == "unknown" and len(p.steps) > 1)
    facts, rules, subject, _ = read(problem.prompt)

    def moves(known: frozenset[tuple[str, bool]]) -> Iterator[tuple[str, frozenset[tuple[str, bool]] | None]]:
        open_rules = [rule for rule in rules if rule[1:] not in known]
        if fault == "haste":
            open_rules = [rule for rule in open_rules if all((p, True) in known for p in rule[0])]
        for premises, predicate, sign in open_rules:
            yield f"{' '.join(premises)} so {'' if sign else 'not '}{predicate}", known | {(predicate, sign)}
        if fault == "haste" or not open_rules:
            yield "answer: unknown", None

    start = frozenset((p, sign) for thing, p, sign in facts if thing == subject)
    with pytest.raises(AssertionError, match=r"oracle says True|rejected"):
        check_oracle(lambda partial: follows(partial, start, moves), accepted_solutions(problem))


@pytest.mark.parametrize("difficulty", [0.0, 0.3, 0.6, 1.0])
def test_gold_solutions_pass(difficulty: float) -> None:
    for seed in range(12):
        problem = deduction.generate(seed, difficulty)
        check_problem(deduction, problem)
        check_rerendering(deduction, problem, range(3))
        for answer in ("yes", "no", "unknown", "", "true"):
            assert deduction.check(problem, answer) == (answer == problem.answer)


def test_theories_that_forward_chaining_cannot_decide_are_not_read() -> None:
    contrapositive = "red things are big. bob is not big.\nis bob red?"
    assert entailed(contrapositive) == "no" and deduction.read(contrapositive) is None
    for prompt in (
        "bob is big. bob is not big.\nis bob red?",
        "ann is red. red things are big. red things are not big.\nis bob red?",  # ann contradicts herself
        "bob is big. bob is big.\nis bob red?",
        "bob is big\nis bob red?",
        "bob is big.\nis bob red",
        "red old big things are sad.\nis bob red?",
    ):
        assert deduction.read(prompt) is None
    told = deduction.read("bob is red.\nis bob red?")
    assert told is not None and (told.steps, told.answer) == ((), "yes")


def test_canonical_form_tells_theories_apart() -> None:
    told = {
        "base": "bob is red. red old things are big. ann is old.\nis bob big?",
        "renamed": "old dry things are wet. sue is dry. tom is old.\nis tom wet?",
        "asked": "bob is red. red old things are big. ann is old.\nis bob old?",
        "subject": "bob is red. red old things are big. ann is red.\nis bob big?",
        "sign": "bob is red. red old things are not big. ann is old.\nis bob big?",
        "fact": "bob is red. red old things are big. ann is not old.\nis bob big?",
        "premise": "bob is red. red things are big. ann is old.\nis bob big?",
    }
    forms = {key: problem.canonical for key, prompt in told.items() if (problem := deduction.read(prompt))}
    assert len(forms) == len(told) and forms["base"] == forms["renamed"]
    assert len(set(forms.values())) == len(told) - 1


def test_dials() -> None:
    sizes = [sum(len(deduction.generate(seed, d).prompt) for seed in range(60)) for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes)
    plain = {"dead": 0, "live": 0, "facts": 0, "things": 1, "disorder": 0}
    for depth in (1, 4, 9):
        problems = [deduction.build(seed, 0.5, depth=depth, **plain) for seed in range(30)]
        assert all(len(p.steps) == depth for p in problems if p.answer != "unknown")
        assert all(len(p.steps) < depth for p in problems if p.answer == "unknown")
    live = [deduction.build(seed, 0.5, depth=2, pairs=0, **{**plain, "live": 4}) for seed in range(20)]
    assert max(len(p.steps) for p in live) > 2
    words = [deduction.build(seed, 0.5, nonsense=nonsense).prompt for nonsense in (0, 1) for seed in range(10)]
    assert len({word for prompt in words[:10] for word in prompt.split()} & set(words[10].split())) < 9
    with pytest.raises(TaskError, match="Dial 'disorder' is 2"):
        deduction.build(1, 0.5, disorder=2)
