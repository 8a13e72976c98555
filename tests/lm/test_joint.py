"""Several models as one: the laws of an `LM`, and what each of them draws, reads and pays."""

import asyncio

import numpy as np
import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BranchClosedError
from outthink.core.sampling import Sampling, Until
from outthink.engine.engine import Costs
from outthink.lm.joint import JointLM
from outthink.lm.laws import check_lm
from outthink.lm.toy import ToyLM, random_law
from search_world import record_branches

PROMPT = "ab"


def toy(seed, ledger=None, sampling=None, alphabet="abc", end=0.0):
    law = random_law(seed, len(alphabet) + 1)
    return ToyLM(lambda prefix: law(prefix) + np.array([0, 0, 0, end]), alphabet, ledger, sampling, context=90)


def joint(ledger=None, sampling=None, end=-1e9):
    """Two models that never end a line, unless told otherwise."""
    return JointLM(toy(3, ledger, sampling, end=end), toy(4, alphabet="cab", end=end))


class LedBySecond(JointLM):
    """The laws must hold whoever writes."""

    async def root(self, prompt):
        return (await super().root(prompt)).by(1)

    def with_ledger(self, ledger):
        return LedBySecond(self.lms[0].with_ledger(ledger), *self.lms[1:])


@pytest.mark.parametrize("kind", [JointLM, LedBySecond])
async def test_laws(kind):
    def make(ledger, sampling):
        return kind(toy(3, ledger, sampling), toy(4))

    await check_lm(make, PROMPT)


async def test_whoever_goes_on_has_read_what_the_other_wrote():
    """The second model's law after the first one's text, though its alphabet is in another order."""
    root = await joint().root(PROMPT)
    [line] = await root.extend(1, Until(4, ignore_eos=True))
    [rest] = await line.by(1).extend(1, Until(3, ignore_eos=True))
    other = toy(4, alphabet="cab", end=-1e9)
    seen = other.encode(PROMPT + line.text)
    expected = [float(other.log_probs(seen + rest.tokens[:i])[t]) for i, t in enumerate(rest.tokens)]
    assert rest.log_probs == pytest.approx(expected, abs=1e-5)
    assert rest.full_text == line.text + rest.text
    assert await line.by(1).score(rest.text) == pytest.approx(expected, abs=1e-5)
    assert [b.author for b in (root, line, rest)] == [0, 0, 1]


async def test_each_model_draws_what_it_draws_alone_on_its_own_numbers():
    root = await joint(sampling=Sampling(seed=5), end=0.0).root(PROMPT)
    mine = [b.text for b in await root.extend(6, Until(5))]
    theirs = [b.text for b in await root.by(1).extend(6, Until(5))]
    alone = await toy(3, sampling=Sampling(seed=5)).root(PROMPT)
    assert mine == [b.text for b in await alone.extend(6, Until(5))]
    same_numbers = await toy(4, sampling=Sampling(seed=5), alphabet="cab").root(PROMPT)
    assert theirs != [b.text for b in await same_numbers.extend(6, Until(5))]
    twice = await JointLM(toy(3), toy(3)).root(PROMPT)
    one, two = [b.text for b in await twice.extend(6)], [b.text for b in await twice.by(1).extend(6)]
    assert one != two, "a model beside itself drew the same lines again"


async def test_one_tree_and_one_bill():
    """Every draw is recorded once, below what it goes on from; each model pays for what it read and drew."""
    lm = joint()
    root = await lm.root(PROMPT)
    [a] = await root.extend(1, Until(3, ignore_eos=True))
    [b] = await a.by(1).extend(1, Until(2, ignore_eos=True))
    c, d = await b.by(0).extend(2, Until(2, ignore_eos=True))
    assert [t.text for t in c.thought.line()] == ["", "", a.text, b.text, c.text]
    assert len(list(lm.tree.walk())) == 6
    assert [thought.text for thought in b.thought.children] == [c.text, d.text]
    bill = lm.ledger.bill
    assert bill.decoded == sum(t.tokens for t in lm.tree.walk()) == 9
    # The first reads the prompt and what the second wrote, the second the prompt and what the first wrote.
    assert bill.prefilled == (2 + len(b.text)) + (2 + len(a.text))


async def test_a_child_outlives_its_closed_parents_for_every_model(monkeypatch):
    handed_out = record_branches(monkeypatch)
    root = await joint().root(PROMPT)
    [a] = await root.extend(1, Until(3, ignore_eos=True))
    [b] = await a.extend(1, Until(2, ignore_eos=True))
    await root.close()
    await a.close()
    [c] = await b.by(1).extend(1, Until(2, ignore_eos=True))
    assert c.full_text == a.text + b.text + c.text
    for use in (a.by(1).extend, a.extend):
        with pytest.raises(BranchClosedError):
            await use(1)
    await b.close()
    await c.close()
    assert all(branch.closed for branch in handed_out)


async def test_cancelling_at_any_await_leaves_nothing_open(monkeypatch):
    handed_out = record_branches(monkeypatch)

    async def work():
        async with await joint().root(PROMPT) as root:
            [a] = await root.extend(1, Until(3, ignore_eos=True))
            async with a:
                [b] = await a.by(1).extend(1, Until(3, ignore_eos=True))
                async with b:
                    await asyncio.gather(b.by(0).ready(), b.by(0).ready())
                    assert len(b._ways.open) == 2, "handed over twice"

    for turns in range(12):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert all(branch.closed for branch in handed_out)


async def test_on_the_engine_flops_are_each_model_s_own(make_tiny_model):
    """One ledger; the small model's positions are billed at one FLOP each, and one for a row of logits."""
    small, large = make_tiny_model(), make_tiny_model()
    small.engine.costs = Costs(lambda start, count: count, 1)
    ledger = Ledger(Budget(tokens=200))
    lm = JointLM(large.session(ledger), small.session())
    async with await lm.root("hello") as root:
        [a] = await root.extend(1, Until(6, ignore_eos=True))
        async with a:
            [b] = await a.by(1).extend(1, Until(4, ignore_eos=True))
            await b.close()
    assert (large.engine.stats.drawn, small.engine.stats.drawn, ledger.bill.decoded) == (6, 4, 10)
    prompt = 1 + len("hello")
    positions = prompt + 6 - 1  # the last one that is drawn need not be computed
    by_large = large.engine.costs.positions(0, positions) + 6 * large.engine.costs.head
    read = prompt + len(a.text.encode())
    assert ledger.bill.flops == by_large + (read + 4 - 1) + 4
    for model in (small, large):
        for _ in range(3):
            model.thread.call(lambda: None)
            await asyncio.sleep(0)
        assert model.thread.call(lambda m=model: m.engine.cache.num_leased(m.engine.scheduler.leases())) == 0
