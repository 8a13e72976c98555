"""Random theories: a chain of rules that decides a query, distractors around it, and names for everything."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

from outthink.tasks.dials import linear, shuffled, whole, within
from outthink.tasks.horn import Fact, Literal, Rule, Theory, Verdict

_THINGS = "ann bob cy dan eve fay gus hal ian jo kim lea max ned pam ray sue tom una vic"
_ADJECTIVES = (
    "big red old sad kind cold tall wise calm bold shy slow fast loud warm rich poor tidy lazy neat pale dark thin "
    "soft hard dry wet new young blue green round rough sharp sour sweet quiet brave proud clean"
)
THINGS, ADJECTIVES = tuple(_THINGS.split()), tuple(_ADJECTIVES.split())
NONSENSE = tuple(
    word for word in map("".join, product("bdfgklmnprstvz", "aeiou", "bdgklmnprst")) if word not in ("not", *ADJECTIVES)
)


@dataclass(frozen=True)
class DeductionDials:
    """What a theory is made of; counts may be fractional and are then rounded by chance.

    Over difficulty 0..1: ``depth`` 1..6, the rules in the proof of the query (where the answer is unknown one of them
    lacks a premise); ``dead`` 1.5..5 and ``live`` 0..2, distractor rules that never and do apply; ``facts`` 0.5..2,
    facts that matter to no rule that applies; ``things`` 1..2, things told of; ``pairs`` 0..0.5, the share of rules
    with two premises; ``nonsense`` 0..0.5, the chance that the predicates are made-up words; ``disorder`` 0..1, the
    chance that all sentences are shuffled together (else facts come first and the proof's rules in their order, with
    distractors anywhere).
    """

    depth: float
    dead: float
    live: float
    facts: float
    things: float
    pairs: float
    nonsense: float
    disorder: float

    def __post_init__(self) -> None:
        within("depth", self.depth, 1, 12)
        for dial in ("dead", "live", "facts"):
            within(dial, getattr(self, dial), 0, 8)
        within("things", self.things, 1, 4)
        for dial in ("pairs", "nonsense", "disorder"):
            within(dial, getattr(self, dial), 0, 1)

    @staticmethod
    def at(difficulty: float) -> DeductionDials:
        """The dials of a difficulty in 0..1."""
        return DeductionDials(
            depth=linear(1, 6, difficulty),
            dead=linear(1.5, 5, difficulty),
            live=linear(0, 2, difficulty),
            facts=linear(0.5, 2, difficulty),
            things=linear(1, 2, difficulty),
            pairs=linear(0, 0.5, difficulty),
            nonsense=linear(0, 0.5, difficulty),
            disorder=difficulty,
        )


class Draft:
    """A theory in the making; predicates are numbered words until it is renamed.

    ``absent`` holds predicates that the subject cannot be shown to have, ``known`` those that it has.
    """

    def __init__(self, rng: random.Random, dials: DeductionDials, answer: Verdict) -> None:
        self.rng, self.dials, self.answer = rng, dials, answer
        self.num_predicates = 0
        first = self._new()
        self.given, self.known, self.absent = [first], [first], [self._new()]
        self.denied: list[str] = []
        self.asked = ""

    def theory(self) -> Theory:
        """The theory with its sentences in order and its final names."""
        rng = self.rng
        main = self._chain()
        others = [self._live_rule() for _ in range(whole(rng, self.dials.live))]
        others += [self._dead_rule() for _ in range(whole(rng, self.dials.dead))]
        for _ in range(whole(rng, self.dials.facts)):
            if rng.random() < 0.5:
                self.given.append(self._new())
            else:
                self.denied.append(self._pick(self.absent))
        facts = [Fact("0", Literal(given, True)) for given in self.given]
        facts += [Fact("0", Literal(denied, False)) for denied in dict.fromkeys(self.denied)]
        for thing in range(1, whole(rng, self.dials.things)):
            shared = [given for given in self.given if rng.random() < 0.5] or [self._pick(self.absent)]
            facts += [Fact(str(thing), Literal(predicate, True)) for predicate in shared]
        disorder = rng.random() < self.dials.disorder
        rank = {rule: (place + rng.random()) / len(main) for place, rule in enumerate(main)}
        # A re-rendering may turn two rules that differ only in the order of premises into one sentence: keep the first.
        rules: dict[tuple[frozenset[str], Literal], Rule] = {}
        for rule in [*main, *others]:
            rules.setdefault((frozenset(rule.premises), rule.conclusion), rule)
        keyed: list[tuple[float, int, Fact | Rule]] = []
        for place, fact in enumerate(facts):
            keyed.append((rng.random() - (not disorder), place, fact))
        for place, rule in enumerate(rules.values(), len(facts)):
            keyed.append((rng.random() if disorder else rank.get(rule, rng.random()), place, rule))
        return rename(rng, Theory([item for _, _, item in sorted(keyed)], "0", self.asked), self.dials.nonsense, False)

    def _chain(self) -> list[Rule]:
        """The rules of the proof; where the answer is unknown, one of them lacks a premise."""
        depth = whole(self.rng, self.dials.depth)
        broken = int(self.rng.random() * depth) if self.answer == "unknown" else depth
        rules, last = [], self.known[0]
        for place in range(depth):
            premises = [self.absent[0] if place == broken else last]
            if self.rng.random() < self.dials.pairs:
                premises.append(self._second(premises[0]))
            last = self._new()
            ends = place == depth - 1
            denies = ends and (self.answer == "no" or (self.answer == "unknown" and self.rng.random() < 0.5))
            rules.append(self._rule(premises, Literal(last, not denies)))
            (self.known if place < broken and not denies else self.absent).append(last)
        self.asked = last
        return rules

    def _second(self, first: str) -> str:
        """Another known predicate: one more fact, or one concluded before."""
        others = [predicate for predicate in self.known if predicate != first]
        if others and self.rng.random() < 0.5:
            return self._pick(others)
        self.given.append(self._new())
        self.known.append(self.given[-1])
        return self.given[-1]

    def _live_rule(self) -> Rule:
        premises = [self._pick([predicate for predicate in self.known if predicate != self.asked])]
        new = self._new()
        positive = self.rng.random() < 0.7
        (self.known if positive else self.absent).append(new)
        return self._rule(premises, Literal(new, positive))

    def _dead_rule(self) -> Rule:
        """A rule with a premise out of reach; its conclusion may well be the query."""
        rng = self.rng
        premises = [self._pick(self.absent)]
        if rng.random() < self.dials.pairs:
            premises.append(self._pick(self.known))
        draw = rng.random()
        if draw < 0.4:
            conclusion = self.asked
        elif draw < 0.7:
            conclusion = self._new()
            self.absent.append(conclusion)
        else:
            conclusion = self._pick([*self.known, *self.absent])
        if conclusion in premises:
            conclusion = self._new()
            self.absent.append(conclusion)
        return self._rule(premises, Literal(conclusion, rng.random() < 0.6))

    def _rule(self, premises: list[str], conclusion: Literal) -> Rule:
        return Rule(tuple(premises if self.rng.random() < 0.5 else reversed(premises)), conclusion)

    def _new(self) -> str:
        self.num_predicates += 1
        return str(self.num_predicates)

    def _pick(self, items: list[str]) -> str:
        return items[int(self.rng.random() * len(items))]


def rename(rng: random.Random, theory: Theory, nonsense: float, shuffle: bool = True) -> Theory:
    """``theory`` with all names drawn anew, and with sentences and premises shuffled where asked."""
    things = theory.things()
    predicates = dict.fromkeys([theory.asked])
    for sentence in theory.sentences:
        if isinstance(sentence, Fact):
            predicates[sentence.literal.predicate] = None
        else:
            predicates.update(dict.fromkeys([*sentence.premises, sentence.conclusion.predicate]))
    words = NONSENSE if rng.random() < nonsense or len(predicates) > len(ADJECTIVES) else ADJECTIVES
    word = dict(zip(predicates, rng.sample(words, len(predicates)), strict=True))
    name = dict(zip(things, rng.sample(THINGS, len(things)), strict=True))
    sentences: list[Fact | Rule] = []
    for sentence in shuffled(rng, theory.sentences) if shuffle else theory.sentences:
        if isinstance(sentence, Fact):
            sentences.append(Fact(name[sentence.thing], Literal(word[sentence.literal[0]], sentence.literal[1])))
            continue
        premises = shuffled(rng, sentence.premises) if shuffle else sentence.premises
        conclusion = Literal(word[sentence.conclusion[0]], sentence.conclusion[1])
        sentences.append(Rule(tuple([word[premise] for premise in premises]), conclusion))
    return Theory(sentences, name[theory.subject], word[theory.asked])
