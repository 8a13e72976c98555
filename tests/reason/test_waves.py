"""Lines under a budget: those that are begun are mostly finished, so that short ones win no more than their votes."""

import numpy as np
import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM
from outthink.reason import waves
from outthink.reason.waves import affordable, sample_lines

SHORT, LONG = 0.5, 0.04  # the chance of an end after each token of a line, by its first token: half are of each kind


def short_or_long(prefix):
    if len(prefix) == 1:
        return np.array([0.0, 0.0, -30.0])
    end = SHORT if prefix[1] == 0 else LONG
    return np.log(np.array([(1 - end) / 2, (1 - end) / 2, end]))


async def shares(budget=300, seeds=40):
    """Of the lines that were begun, how many were finished; and of those, how many were short ones."""
    begun = finished = short = 0
    for seed in range(seeds):
        lm = ToyLM(short_or_long, "ab", Ledger(Budget(tokens=budget)), Sampling(seed=seed), context=200)
        async with await lm.root("a") as root:
            async for wave in sample_lines(root, 10**6, lm.ledger, Until()):
                begun += len(wave)
                finished += sum(line.ended for line in wave)
                short += sum(line.ended and line.text.startswith("a") for line in wave)
                for line in wave:
                    await line.close()
    return finished / begun, short / finished


async def test_lines_of_unequal_length_are_mostly_finished(monkeypatch):
    whole, short = await shares()
    monkeypatch.setattr(waves.affordable, "__defaults__", (None, 0.0))
    whole_without, short_without = await shares()
    assert whole > 0.75 > whole_without + 0.08
    assert 0.5 <= short < short_without - 0.05, "half of all lines are short"


@pytest.mark.parametrize(("launched", "expected"), [(1, 9), (2, 13), (20, 22), (2000, 23)])
def test_a_plan_on_few_lines_is_a_cautious_one(launched, expected):
    ledger = Ledger(Budget(tokens=10_000))
    assert affordable(ledger, launched, 10, 300) == expected
    assert affordable(ledger, launched, 10, 300, doubt=0.0) == 24


def test_where_nothing_was_seen_one_line_is_begun():
    assert affordable(Ledger(Budget(tokens=10_000)), 0, 0) == 1
