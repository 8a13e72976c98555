"""Deduction: from facts and rules in plain words, is a statement true, false or neither.

``bob is red. red things are big. big old things are not sad.`` / ``is bob sad?`` Answers: yes (entailed), no (its
negation is entailed) or unknown. Each is equally likely. Dead rules look alike but want a premise that cannot be had;
live rules apply but do not matter; other things share the predicates.

Accepted steps: a line ``big old so not sad`` applies a rule as it is told to the thing asked about; all its premises
are told or concluded before, its conclusion is not; any order will do. Yes and no may be answered as soon as the
question is decided, unknown when no rule applies any more. The gold steps always apply the first rule told that
concludes something new, and stop when the question is decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from outthink.tasks.dials import override
from outthink.tasks.horn import Fact, Literal, Rule, Theory, Verdict, applicable, canonical, classical, proof, verdict
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for
from outthink.tasks.theories import DeductionDials, Draft, rename

PROMPT = re.compile(r"((?:[a-z ]+\. )*[a-z ]+\.)\nis ([a-z]+) ([a-z]+)\?")
FACT = re.compile(r"([a-z]+) is (not )?([a-z]+)\.")
RULE = re.compile(r"([a-z]+(?: [a-z]+)?) things are (not )?([a-z]+)\.")
VERDICTS: tuple[Verdict, ...] = ("yes", "no", "unknown")


class Deduction:
    """Facts and Horn rules in plain words; the dials are DeductionDials."""

    name = "deduction"
    summary = "Decide whether a statement follows from facts and rules."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, depth=9, live=0)``."""
        settings = override(DeductionDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        answer = VERDICTS[int(rng.random() * len(VERDICTS))]
        while classical(theory := Draft(rng, settings, answer).theory()) != answer:
            pass  # a distractor has decided the question or contradicted something: draw again
        return self._problem(theory, seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.strip() == problem.answer

    def extendable(self, problem: Problem, partial: str) -> bool:
        theory = _theory(problem.prompt)
        if theory is None:
            return False
        rules, asked = theory.rules, theory.asked

        def moves(known: frozenset[Literal]) -> Iterator[tuple[str, frozenset[Literal] | None]]:
            new = {rule.step: rule.conclusion for rule in applicable(rules, known)}
            for line, conclusion in new.items():
                yield line, known | {conclusion}
            found = verdict(asked, known)
            if found != "unknown" or not new:
                yield ANSWER + found, None

        return follows(partial, theory.facts(theory.subject), moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """Other names for things and predicates, real words or made-up ones; sentences and premises shuffled."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        theory = _theory(problem.prompt)
        assert theory is not None, "a problem of this family states a theory"
        return self._problem(rename(rng, theory, nonsense=0.5), problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a prompt; None also for theories that contradict themselves or need a contrapositive."""
        theory = _theory(prompt)
        if theory is None or classical(theory) is None:
            return None
        return self._problem(theory, 0, 0.0)

    def _problem(self, theory: Theory, seed: int, difficulty: float) -> Problem:
        used = proof(theory)
        known = theory.facts(theory.subject).union(rule.conclusion for rule in used)
        told = " ".join([str(sentence) for sentence in theory.sentences])
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=f"{told}\nis {theory.subject} {theory.asked}?",
            steps=tuple([rule.step for rule in used]),
            answer=verdict(theory.asked, known),
            canonical=canonical(theory),
            data={"subject": theory.subject, "asked": theory.asked},
        )


def _theory(prompt: str) -> Theory | None:
    """The theory that a prompt states, or None."""
    match = PROMPT.fullmatch(prompt)
    if match is None:
        return None
    sentences: list[Fact | Rule] = []
    for told in match[1].removesuffix(".").split(". "):
        if rule := RULE.fullmatch(told + "."):
            sentences.append(Rule(tuple(rule[1].split(" ")), Literal(rule[3], not rule[2])))
        elif fact := FACT.fullmatch(told + "."):
            sentences.append(Fact(fact[1], Literal(fact[3], not fact[2])))
        else:
            return None
    if len(set(sentences)) < len(sentences):
        return None
    return Theory(sentences, match[2], match[3])
