"""Calculator: word problems over several quantities, solved with calls to a calculator that the runtime fills in.

A call is ``<calc>12*7</calc>``; the runtime appends `` = 84`` to it, which `run_calculator` computes.

Accepted steps: a line ``bob: <calc>3*7</calc> = 21`` works out one quantity of the story, needed or not, that is not
simply told and whose sources are known by then, with the factors of a product and the terms of a sum in any order.
``together`` stands for the sum that a question may ask for. The answer comes once its quantity is known.

Two problems are the same where one becomes the other by other names, things, verbs, wording, and order of sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from outthink.tasks.canonical import canonical_form
from outthink.tasks.dials import linear, override, shuffled, whole, within
from outthink.tasks.expression import exact_value, parse_tree
from outthink.tasks.oracle import follows
from outthink.tasks.problem import ANSWER, Problem, check_difficulty, rng_for
from outthink.tasks.stories import ITEMS, KINDS, NAMES, PARTS, VERBS, Quantity, Story, read_story, tell_story

OPEN, CLOSE = "<calc>", "</calc>"
MAX_EXPRESSION, ERROR = 100, "error"
RELATIONS, SUM_SHARE = ("more", "fewer", "times", "part"), 0.2
# Only sums add to values beyond this; twelve of them, more than a story has, stay below the largest value of a story.
LARGEST_PRODUCT = 500_000


@dataclass(frozen=True)
class CalculatorDials:
    """The settings of one problem; fractions are rounded up or down by chance.

    ``hops``: calls that the gold solution makes (1..5 over difficulty 0..1). ``digits``: of the numbers told (1.5..3).
    ``factor``: the largest factor of "times as many" (5..30). ``distractors``: quantities that are not needed (0..1.5).
    ``shuffle``: the probability that the sentences come in random order (0..1).
    """

    hops: float
    digits: float
    factor: float
    distractors: float
    shuffle: float

    def __post_init__(self) -> None:
        within("hops", self.hops, 1, 8)
        within("digits", self.digits, 1, 4)
        within("factor", self.factor, 2, 50)
        within("distractors", self.distractors, 0, 4)
        within("shuffle", self.shuffle, 0, 1)

    @staticmethod
    def at(difficulty: float) -> CalculatorDials:
        return CalculatorDials(
            hops=linear(1, 5, difficulty),
            digits=linear(1.5, 3, difficulty),
            factor=linear(5, 30, difficulty),
            distractors=linear(0, 1.5, difficulty),
            shuffle=difficulty,
        )


class Calculator:
    """Word problems that call a calculator; the dials are CalculatorDials."""

    name = "calculator"
    summary = "Solve a word problem with calls to a calculator."

    def generate(self, seed: int, difficulty: float) -> Problem:
        return self.build(seed, difficulty)

    def build(self, seed: int, difficulty: float = 0.5, **dials: float) -> Problem:
        """The problem of this seed with single dials set by keyword, as in ``build(7, 0.5, hops=8)``."""
        settings = override(CalculatorDials.at(check_difficulty(difficulty)), dials)
        rng = rng_for(self.name, seed, difficulty)
        story = _draw_story(rng, settings)
        return self._problem(story, tell_story(story), seed, difficulty)

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.strip() == problem.answer

    def extendable(self, problem: Problem, partial: str) -> bool:
        story = Story.from_json(problem.data)
        values = story.values()
        assert values is not None
        told = frozenset(quantity.name for quantity in story.all_quantities() if quantity.kind == "has")

        def moves(known: frozenset[str]) -> Iterator[tuple[str, frozenset[str] | None]]:
            if story.asked in known:
                yield ANSWER + problem.answer, None
            for quantity in story.all_quantities():
                if quantity.name not in known and known.issuperset(quantity.sources):
                    for expression in _expressions(quantity, values):
                        yield _line(quantity.name, expression, values), known | {quantity.name}

        return follows(partial, told, moves)

    def rerender(self, problem: Problem, seed: int) -> Problem:
        """Other names, things and verbs, sentences in another order, other wording, small numbers perhaps as words."""
        rng = rng_for(self.name + " again", seed, problem.difficulty)
        story = Story.from_json(problem.data)
        renamed = dict(zip((q.name for q in story.quantities), rng.sample(NAMES, len(story.quantities)), strict=True))
        told = Story(
            tuple(shuffled(rng, (quantity.renamed(renamed) for quantity in story.quantities))),
            tuple(shuffled(rng, (renamed[name] for name in story.question))),
            ITEMS[int(rng.random() * len(ITEMS))],
            int(rng.random() * len(VERBS)),
        )
        text = tell_story(told, in_full=rng.random() < 0.5, spelled=rng.random() < 0.5)
        return self._problem(told, text, problem.seed, problem.difficulty)

    def read(self, prompt: str) -> Problem | None:
        """The problem of a story in the sentences of this family, in any order, else None."""
        story = read_story(prompt)
        return None if story is None else self._problem(story, tell_story(story), 0, 0.0)

    def _problem(self, story: Story, prompt: str, seed: int, difficulty: float) -> Problem:
        values = story.values()
        assert values is not None
        by_name = {quantity.name: quantity for quantity in story.all_quantities()}
        steps: dict[str, str] = {}
        _work_out(by_name, story.asked, values, steps)
        return Problem(
            family=self.name,
            difficulty=difficulty,
            seed=seed,
            prompt=prompt,
            steps=tuple(steps.values()),
            answer=str(values[story.asked]),
            canonical=_canonical(story),
            data=story.to_json(),
        )


def run_calculator(expression: str) -> str:
    """What the calculator shows: the value of an expression of whole numbers with + - * / and brackets, else ``error``.

    Divisions must be exact; an expression has at most MAX_EXPRESSION characters and nothing is run as code.
    """
    tree = parse_tree(expression, "+-*/") if len(expression) <= MAX_EXPRESSION else None
    value = None if tree is None else exact_value(tree)
    return ERROR if value is None else str(value)


def fill_in(text: str) -> str:
    """``text`` with the calculator's result appended where it ends in a finished call, else as it is."""
    if not text.endswith(CLOSE) or OPEN not in text:
        return text
    return f"{text} = {run_calculator(text[text.rindex(OPEN) + len(OPEN) : -len(CLOSE)])}"


def _line(name: str, expression: str, values: Mapping[str, int]) -> str:
    return f"{name}: {OPEN}{expression}{CLOSE} = {values[name]}"


def _expressions(quantity: Quantity, values: Mapping[str, int]) -> list[str]:
    """The calls that work ``quantity`` out; the first is gold's, and no two are equal."""
    given = [values[name] for name in quantity.sources]
    match quantity.kind, [*quantity.numbers, *given]:
        case "boxes", [count, size]:
            found = [f"{count}*{size}", f"{size}*{count}"]
        case "boxes and", [count, size, rest]:
            found = [
                text
                for product in (f"{count}*{size}", f"{size}*{count}")
                for text in (f"{product}+{rest}", f"{rest}+{product}")
            ]
        case "more", [extra, source]:
            found = [f"{source}+{extra}", f"{extra}+{source}"]
        case "fewer", [lack, source]:
            found = [f"{source}-{lack}"]
        case "times", [factor, source]:
            found = [f"{source}*{factor}", f"{factor}*{source}"]
        case "part", [divisor, source]:
            found = [f"{source}/{divisor}"]
        case "sum", [first, second]:
            found = [f"{first}+{second}", f"{second}+{first}"]
        case _:
            found = []
    return list(dict.fromkeys(found))


def _work_out(quantities: Mapping[str, Quantity], name: str, values: Mapping[str, int], steps: dict[str, str]) -> None:
    """Appends to ``steps`` the line of ``name`` after those of its sources, each once."""
    quantity = quantities[name]
    for source in quantity.sources:
        if source not in steps:
            _work_out(quantities, source, values, steps)
    if quantity.kind != "has":
        steps[name] = _line(name, _expressions(quantity, values)[0], values)


def _canonical(story: Story) -> str:
    """The graph of quantities without names; a node's colour holds its kind, numbers and whether it is asked for."""
    position = {quantity.name: index for index, quantity in enumerate(story.quantities)}
    colours, edges = [], []
    for index, quantity in enumerate(story.quantities):
        colour = 2 * KINDS.index(quantity.kind) + 2 + (quantity.name in story.question)
        for number in quantity.numbers:
            colour = colour * 10_000_000 + number
        colours.append(colour)
        edges += [(index, position[source], 0) for source in quantity.sources]
    return canonical_form(colours, edges)


def _draw_story(rng: random.Random, dials: CalculatorDials) -> Story:
    """A chain of quantities in which each is made from the one before, some from another one as well."""
    hops, distractors = whole(rng, dials.hops), whole(rng, dials.distractors)
    together = hops > 1 and rng.random() < 0.3
    names = iter(rng.sample(NAMES, 2 * hops + distractors + 2))
    quantities: list[Quantity] = []
    values: dict[str, int] = {}

    def add(kind: str, numbers: Sequence[int] = (), sources: Sequence[str] = ()) -> str:
        quantity = Quantity(next(names), kind, tuple(numbers), tuple(sources))
        quantities.append(quantity)
        values[quantity.name] = quantity.value(values)
        return quantity.name

    def grow(source: str) -> str:
        if rng.random() >= SUM_SHARE:
            return add(*_draw_relation(rng, dials, values[source]), (source,))
        others = [name for name in values if name != source]
        fresh = not others or rng.random() < 0.5
        other = add("has", [_draw_number(rng, dials.digits)]) if fresh else others[int(rng.random() * len(others))]
        return add("sum", (), (source, other))

    calls = hops - together
    last = add(*_draw_start(rng, dials, hops > 1))
    calls -= quantities[-1].kind != "has"
    for _ in range(calls):
        last = grow(last)
    chain = [quantity.name for quantity in quantities]
    for _ in range(distractors):
        grow(chain[int(rng.random() * len(chain))])
    asked = (last,)
    if together:
        others = [name for name in chain if name != last]
        other = others[int(rng.random() * len(others))] if others else add("has", [_draw_number(rng, dials.digits)])
        asked = (other, last)
    if rng.random() < dials.shuffle:
        quantities = shuffled(rng, quantities)
    return Story(tuple(quantities), asked, ITEMS[int(rng.random() * len(ITEMS))], int(rng.random() * len(VERBS)))


def _draw_start(rng: random.Random, dials: CalculatorDials, may_be_told: bool) -> tuple[str, list[int]]:
    """A quantity that needs no other: told where it may be and a coin says so, or counted in boxes."""
    count = 2 + int(rng.random() * (dials.factor - 1))
    if may_be_told and rng.random() < 0.7:
        return "has", [_draw_number(rng, dials.digits)]
    if rng.random() < 0.5:
        return "boxes", [count, _draw_number(rng, dials.digits)]
    return "boxes and", [count, _draw_number(rng, dials.digits), _draw_number(rng, 1)]


def _draw_relation(rng: random.Random, dials: CalculatorDials, source: int) -> tuple[str, list[int]]:
    """A quantity made from one of ``source`` things, from 1 up; products stay below LARGEST_PRODUCT."""
    kind, number = RELATIONS[int(rng.random() * len(RELATIONS))], _draw_number(rng, dials.digits)
    if kind == "part" and (divisors := [divisor for divisor in PARTS if source % divisor == 0]):
        return kind, [divisors[int(rng.random() * len(divisors))]]
    if kind == "times" and source * dials.factor < LARGEST_PRODUCT:
        return kind, [2 + int(rng.random() * (dials.factor - 1))]
    return "fewer" if kind != "more" and number < source else "more", [number]


def _draw_number(rng: random.Random, digits: float) -> int:
    """A number of so many digits, at least 2."""
    low = 10 ** (whole(rng, digits) - 1)
    return max(2, low + int(rng.random() * 9 * low))
