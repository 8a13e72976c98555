"""Labels of steps are what they say: unbiased, or the planted first wrong step, at the cost that is told."""

import asyncio
import functools
import math
import re

import numpy as np
import pytest

from outthink.core.errors import UnknownNameError, UserError
from outthink.core.question import Question
from outthink.learn.rewards.labelers import BinarySearch, MonteCarlo, Outcomes, make_labeler
from quick_toy import cached_law, toy

ALPHABET, MOST = "a=\n", 7
MARK = re.compile(r"^=(a)?$", re.MULTILINE)


def parse(text):
    """The last line of text that begins with '=': what follows it is the answer, "none" where nothing does."""
    found = [m[1] or "none" for m in MARK.finditer(text)]
    return found[-1] if found else None


QUESTION = Question("a", parse, lambda answer: answer == "a")


def right_by_definition(text, finish):
    """Whether a line ends right: it is over with the first finished line of text that answers."""
    pieces = text.split("\n")
    for i in range(1, len(pieces)):
        if (answer := parse("\n".join(pieces[:i]) + "\n")) is not None:
            return answer == "a"
    return parse(text if finish == "stop" else text[: text.rfind("\n") + 1]) == "a"


@functools.cache
def chance(prefix):
    """The exact probability that a line with this prefix ends right, by enumeration."""
    lm, total = toy(ALPHABET, 64, law=LAW), 0.0
    for text, log_prob, finish in lm.enumerate("a" + prefix, MOST - len(prefix)):
        total += math.exp(log_prob) * right_by_definition(prefix + text, finish)
    return total


LAW = cached_law(21, len(ALPHABET) + 1, 1.0)


async def label(labeler, seed, law=LAW, question=QUESTION, alphabet=ALPHABET):
    lm = toy(alphabet, 64, law=law, seed=seed)
    async with await lm.root(question.prompt) as root:
        return await labeler.label(question, root), lm


def z_score(sums):
    return abs(sums.sum()) / math.sqrt((sums**2).sum())


async def test_monte_carlo_labels_are_unbiased_for_what_enumeration_says():
    sums = []
    for seed in range(700):
        [line], _ = await label(MonteCarlo(lines=1, rollouts=3, max_tokens=MOST), seed)
        sums.append(sum(step.value - chance(line.text[: step.end]) for step in line.steps))
    assert np.count_nonzero(sums) > 300, "too few runs have labels"
    # The runs are independent and their sums have mean 0: beyond 4.4 standard errors by chance once in 90,000 tests.
    assert z_score(np.array(sums)) < 4.4


STEPS, KEPT = 6, 0.8


@functools.cache
def planted(prefix):
    """Six steps, each good with probability 0.8, then the answer: right exactly where no step was bad."""
    symbols = "gb=\nyn"
    text = "".join(symbols[token] for token in prefix if token < len(symbols)).removeprefix("=")
    law = np.full(len(symbols) + 1, -40.0)
    if text.endswith("="):
        law[symbols.index("n" if "b" in text else "y")] = 0.0
    elif text.endswith(("y", "n")):
        law[len(symbols)] = 0.0
    elif text and not text.endswith("\n"):
        law[symbols.index("\n")] = 0.0
    elif text.count("\n") == STEPS:
        law[symbols.index("=")] = 0.0
    else:
        law[symbols.index("g")], law[symbols.index("b")] = math.log(KEPT), math.log(1 - KEPT)
    return law


PLANTED = Question("=", lambda text: text[-1] if text[-1:] in ("y", "n") else None, lambda answer: answer == "y")


def as_labelled(line):
    return [step.value for step in line.steps]


def counted_only_when_right(line):
    """The line's own continuation in the numerator and the denominator only where it ends right."""
    return [3 * step.value / (2 + line.right) for step in line.steps]


def of_the_step_before(line):
    """Each prefix with the label of the one before it."""
    return [step.value for step in (line.steps[0], *line.steps[:-1])]


@pytest.fixture(scope="module")
def planted_lines():
    async def lines():
        return [(await label(MonteCarlo(1, 3), seed, planted, PLANTED, "gb=\nyn"))[0][0] for seed in range(300)]

    return asyncio.run(lines())


@pytest.mark.parametrize(
    ("read", "biased"), [(as_labelled, False), (counted_only_when_right, True), (of_the_step_before, True)]
)
def test_monte_carlo_labels_are_unbiased_given_their_prefix(planted_lines, read, biased):
    sums = []
    for line in planted_lines:
        steps = line.text.split("\n")[:STEPS]
        assert [step.end for step in line.steps] == [2 * i for i in range(1, STEPS + 1)]
        true = [0.0 if "b" in steps[:i] else KEPT ** (STEPS - i) for i in range(1, STEPS + 1)]
        # A label is unbiased given its prefix, so that any weight which the prefix decides leaves the mean 0. (All of
        # weight 1, the labels of the steps before would have mean 0 as well: the chance to end right is a martingale.)
        weights = [1 if step == "g" else -1 for step in steps]
        sums.append(sum(w * (v - t) for w, v, t in zip(weights, read(line), true, strict=True)))
    # As above; a biased one passes by chance with probability below 0.001.
    assert (z_score(np.array(sums)) > 4.4) == biased


async def test_monte_carlo_labels_every_step_but_the_last_and_counts_the_line_itself():
    for seed in range(60):
        lines, _ = await label(MonteCarlo(lines=2, rollouts=4, max_tokens=MOST), seed)
        assert len(lines) == 2
        for line in lines:
            ends = [end for end in line.step_ends() if parse(line.text[:end]) is None and end < MOST]
            assert [step.end for step in line.steps] == ends
            assert all((4 * step.value).is_integer() and step.rollouts == 4 for step in line.steps)
            assert all(step.value >= 0.25 for step in line.steps if line.right)
            finish = "stop" if line.ended else "length"
            assert line.right == right_by_definition(line.text, finish)
            alone, _ = await label(MonteCarlo(lines=1, rollouts=1, max_tokens=MOST), seed)
            assert {step.value for step in alone[0].steps} <= {float(alone[0].right)}


async def search(seed, rollouts=16):
    lines, _ = await label(BinarySearch(lines=1, rollouts=rollouts), seed, planted, PLANTED, "gb=\nyn")
    return lines[0]


def first_bad(values):
    return next((i for i, value in enumerate(values) if value == 0), len(values))


async def test_binary_search_finds_the_planted_first_wrong_step():
    lines = [await search(seed) for seed in range(120)]
    wrong = [line for line in lines if not line.right and line.steps]
    assert len(wrong) > 60
    missed = shifted = 0
    for line in wrong:
        values, true = [step.value for step in line.steps], line.text.split("\n").index("b")
        assert values == sorted(values, reverse=True)
        # Nothing that cannot end right is called right, for no continuation of it does.
        assert all(value == 0 for value, step in zip(values, line.steps, strict=True) if "b" in line.text[: step.end])
        missed += first_bad(values) != true
        shifted += first_bad([1.0, *values[:-1]]) != true
    # A good prefix of i steps is missed where 16 continuations, right with probability 0.8 ** (6 - i) each, all fail:
    # 0.0017 at most, and at most three are asked of. 4 lines or more of 120 are missed once in 90,000 tests.
    assert missed < 4
    assert shifted >= 4, "labels that are one step late would not be noticed"
    assert all(step.value == 1 for line in lines if line.right for step in line.steps)


async def test_binary_search_asks_few_prefixes():
    for seed in range(20):
        line = await search(seed)
        asked = [step for step in line.steps if step.rollouts]
        assert len(asked) <= math.ceil(math.log2(STEPS + 1)) and (not line.right or not asked)


async def test_a_problem_that_no_line_solves_has_no_labels_of_steps():
    never = Question("a", parse, lambda answer: False)
    for seed in range(20):
        lines, _ = await label(BinarySearch(lines=2, rollouts=4, max_tokens=MOST), seed, question=never)
        assert len(lines) == 2 and not any(line.steps or line.right for line in lines)


@pytest.mark.parametrize("name", ["monte-carlo", "binary-search", "outcomes"])
async def test_a_seed_decides_the_labels_and_nothing_stays_open(name):
    labeler = make_labeler(name, 2, 3, MOST)
    first, lm = await label(labeler, 5)
    second, other = await label(labeler, 5)
    assert first == second and lm.ledger.bill.tokens == other.ledger.bill.tokens > 0
    assert (await label(labeler, 6))[0] != first


async def test_the_bill_of_monte_carlo_is_its_lines_and_rollouts():
    for seed in range(50):
        [line], lm = await label(MonteCarlo(lines=1, rollouts=3, max_tokens=MOST), seed)
        drawn = sum(thought.tokens for thought in lm.tree.walk())
        assert lm.ledger.bill.decoded == drawn and lm.ledger.bill.prefilled == 1
        assert len([t for t in lm.tree.walk() if not t.children]) == 1 + 2 * len(line.steps)


async def test_outcomes_are_whole_lines():
    lines, lm = await label(Outcomes(lines=40, max_tokens=MOST), 1)
    assert all(line.right == right_by_definition(line.text, "stop" if line.ended else "length") for line in lines)
    assert {line.right for line in lines} == {True, False} and not any(line.steps for line in lines)
    assert lm.ledger.bill.tokens <= 1 + 40 * MOST


def test_bad_settings_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'monte-carlo'"):
        make_labeler("montecarlo", 1, 8, 100)
    with pytest.raises(UserError, match="rollouts is 0"):
        make_labeler("binary-search", 1, 0, 100)
