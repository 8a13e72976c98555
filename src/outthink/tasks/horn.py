"""Theories of facts and Horn rules with explicit negative conclusions, and forward chaining over them.

Predicates are plain strings here and so are the things they speak of. A rule has positive premises and one positive or
negative conclusion, and holds for every thing. In classical logic a positive conclusion follows exactly when forward
chaining derives it; a negative one may also follow by contraposition (from "red things are big" and "bob is not big").
Theories in which the query is decided that way only are told apart by ``classical`` and are never made into problems.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from outthink.tasks.canonical import canonical_form

Verdict = typing.Literal["yes", "no", "unknown"]
PREDICATE, ASKED, THING, SUBJECT, POSITIVE_RULE, NEGATIVE_RULE = range(6)  # colours of the canonical form
PREMISE, CONCLUSION, IS, IS_NOT, SO, SO_NOT = range(6)  # edge labels of the canonical form


class Literal(NamedTuple):
    """A predicate or its negation."""

    predicate: str
    positive: bool

    def __str__(self) -> str:
        return self.predicate if self.positive else f"not {self.predicate}"


class Fact(NamedTuple):
    """What a thing is told to be."""

    thing: str
    literal: Literal

    def __str__(self) -> str:
        return f"{self.thing} is {self.literal}."


class Rule(NamedTuple):
    """Whatever has all the premises has the conclusion."""

    premises: tuple[str, ...]
    conclusion: Literal

    def __str__(self) -> str:
        return f"{' '.join(self.premises)} things are {self.conclusion}."

    @property
    def step(self) -> str:
        """The line that applies the rule to the thing asked about."""
        return f"{' '.join(self.premises)} so {self.conclusion}"


@dataclass(frozen=True)
class Theory:
    """Facts and rules in the order they are told, and the question whether ``subject`` is ``asked``."""

    sentences: Sequence[Fact | Rule]
    subject: str
    asked: str

    @property
    def rules(self) -> list[Rule]:
        """The rules in the order they are told."""
        return [sentence for sentence in self.sentences if isinstance(sentence, Rule)]

    def facts(self, thing: str) -> frozenset[Literal]:
        """What is told of ``thing``."""
        told = (sentence for sentence in self.sentences if isinstance(sentence, Fact))
        return frozenset(fact.literal for fact in told if fact.thing == thing)

    def things(self) -> list[str]:
        """The things that are told of, and the subject, in the order of first mention."""
        told = [sentence.thing for sentence in self.sentences if isinstance(sentence, Fact)]
        return list(dict.fromkeys([*told, self.subject]))


def applicable(rules: Iterable[Rule], known: frozenset[Literal]) -> Iterator[Rule]:
    """The rules whose premises are all known and whose conclusion is not, in their order."""
    held = {predicate for predicate, positive in known if positive}
    for rule in rules:
        if rule.conclusion not in known and held.issuperset(rule.premises):
            yield rule


def closure(rules: Sequence[Rule], known: frozenset[Literal]) -> frozenset[Literal]:
    """All literals that forward chaining derives from ``known``, itself included."""
    held, found, pending = {predicate for predicate, positive in known if positive}, set(known), list(rules)
    while pending:
        waiting = []
        for rule in pending:
            if not held.issuperset(rule.premises):
                waiting.append(rule)
                continue
            found.add(rule.conclusion)
            if rule.conclusion.positive:
                held.add(rule.conclusion.predicate)
        if len(waiting) == len(pending):
            break
        pending = waiting
    return frozenset(found)


def consistent(known: frozenset[Literal]) -> bool:
    """Whether no predicate is both affirmed and denied."""
    return not any(positive and (predicate, False) in known for predicate, positive in known)


def verdict(asked: str, known: frozenset[Literal]) -> Verdict:
    """What ``known`` says of the predicate ``asked``."""
    return "yes" if (asked, True) in known else "no" if (asked, False) in known else "unknown"


def classical(theory: Theory) -> Verdict | None:
    """The answer in classical logic where forward chaining finds it; None for contrapositives and contradictions."""
    rules = theory.rules
    if not all(consistent(closure(rules, theory.facts(thing))) for thing in theory.things()):
        return None
    known = closure(rules, theory.facts(theory.subject))
    found = verdict(theory.asked, known)
    if found == "unknown" and not consistent(closure(rules, known | {Literal(theory.asked, True)})):
        return None
    return found


def proof(theory: Theory) -> list[Rule]:
    """Forward chaining: always the first rule told that concludes something new, until the question is decided."""
    rules, known = theory.rules, theory.facts(theory.subject)
    used: list[Rule] = []
    while verdict(theory.asked, known) == "unknown":
        rule = next(applicable(rules, known), None)
        if rule is None:
            break
        used.append(rule)
        known |= {rule.conclusion}
    return used


def canonical(theory: Theory) -> str:
    """Equal for two theories exactly when names, order of sentences and order of premises are all that differs."""
    number: dict[tuple[str, str], int] = {}
    colours: list[int] = []
    edges: list[tuple[int, int, int]] = []

    def node(kind: str, name: str, colour: int) -> int:
        place = number.setdefault((kind, name), len(colours))
        if place == len(colours):
            colours.append(colour)
        return place

    node("predicate", theory.asked, ASKED)
    node("thing", theory.subject, SUBJECT)
    for sentence in theory.sentences:
        if isinstance(sentence, Fact):
            predicate, positive = sentence.literal
            thing = node("thing", sentence.thing, THING)
            edges.append((thing, node("predicate", predicate, PREDICATE), IS if positive else IS_NOT))
            continue
        premises = [node("predicate", premise, PREDICATE) for premise in sentence.premises]
        predicate, positive = sentence.conclusion
        conclusion = node("predicate", predicate, PREDICATE)
        if len(premises) == 1:
            edges.append((premises[0], conclusion, SO if positive else SO_NOT))
            continue
        rule = len(colours)
        colours.append(POSITIVE_RULE if positive else NEGATIVE_RULE)
        edges += [(premise, rule, PREMISE) for premise in premises]
        edges.append((rule, conclusion, CONCLUSION))
    return canonical_form(colours, edges)
