"""Checks shared by the tests of task families: a step oracle against the set of all accepted solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from outthink.tasks.problem import Family, Problem


def check_problem(family: Family, problem: Problem) -> None:
    """The gold solution passes, all its beginnings are extendable, and the prompt reads back to the same problem."""
    assert family.check(problem, problem.answer)
    solution = problem.solution
    assert solution.isascii() and solution.splitlines()[-1] == f"answer: {problem.answer}"
    for end in range(len(solution) + 1):
        assert family.extendable(problem, solution[:end]), solution[:end]
    assert family.extendable(problem, solution + "\n")
    assert not family.extendable(problem, solution + "\nanswer")
    again = family.read(problem.prompt)
    assert again is not None
    assert (again.prompt, again.steps, again.answer) == (problem.prompt, problem.steps, problem.answer)
    assert (again.canonical, again.data) == (problem.canonical, problem.data)


def check_rerendering(family: Family, problem: Problem, seeds: Iterable[int]) -> None:
    """Re-renderings have other prompts, the same canonical form, and solutions of their own that pass."""
    told = {problem.prompt}
    for seed in seeds:
        other = family.rerender(problem, seed)
        assert other.canonical == problem.canonical
        assert (other.seed, other.difficulty) == (problem.seed, problem.difficulty)
        check_problem(family, other)
        told.add(other.prompt)
    assert len(told) > 1


def check_oracle(oracle: Callable[[str], bool], solutions: Iterable[str]) -> None:
    """``oracle`` accepts all beginnings of ``solutions`` and, one character further, nothing else.

    Every text that is not a beginning has a shortest wrong beginning, which is a right one and one character more: all
    of those are tried, with every character that occurs in the solutions and some that do not.
    """
    beginnings = {solution[:end] for solution in solutions for end in range(len(solution) + 1)}
    characters = {character for solution in solutions for character in solution} | set("az09 \n>,:#")
    complete = set(solutions)
    for beginning in sorted(beginnings):
        assert oracle(beginning), f"rejected: {beginning!r}"
    for beginning in sorted(beginnings):
        for character in sorted(characters):
            text = beginning + character
            expected = text in beginnings or (beginning in complete and character == "\n")
            assert oracle(text) == expected, f"oracle says {not expected}: {text!r}"
