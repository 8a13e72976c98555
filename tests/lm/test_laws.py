"""The laws of the LM protocol: kept by every implementation, and able to catch one that breaks them."""

from dataclasses import replace

import pytest

from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling
from outthink.lm.laws import asides_leave_no_trace, branches_are_released_with_all_below, check_lm
from outthink.lm.toy import ToyBranch, ToyLM, random_law


def toy(ledger: Ledger, sampling: Sampling) -> ToyLM:
    return ToyLM(random_law(5, 4), "abc", ledger, sampling)


async def test_toy_keeps_the_laws():
    await check_lm(toy, "abca")


async def test_engine_keeps_the_laws(tiny_model):
    await check_lm(lambda ledger, sampling: tiny_model.session(ledger, sampling), "hello there, friend")


async def test_engine_keeps_the_laws_with_few_pages(make_tiny_model):
    model = make_tiny_model(pages=5, max_batch_tokens=7)
    await check_lm(lambda ledger, sampling: model.session(ledger, sampling), "hello there, friend", max_tokens=5)
    assert model.engine.stats.recomputed > 0, "the case was meant to run out of pages"


class ForgetsSeed(ToyLM):
    async def root(self, prompt):
        self.sampling = replace(self.sampling, seed=0)
        return await super().root(prompt)


class ChargesThePromptAgain(ToyLM):
    async def root(self, prompt):
        root = await super().root(prompt)
        extend = root.extend

        async def extend_and_charge(*args, **options):
            self.ledger.charge(prefilled=len(self.encode(prompt)))
            return await extend(*args, **options)

        root.extend = extend_and_charge
        return root


class _Overspends(ToyBranch):
    def _charge(self, *, prefilled=0, decoded=0, spare=0):
        self._lm.ledger.charge(prefilled=prefilled, decoded=decoded, flops=prefilled + decoded)
        return True


class _Reopens(ToyBranch):
    def refuse_if_closed(self, verb):
        pass


class _RoundsLogProbs(ToyBranch):
    def grow(self, *args):
        super().grow(*args)
        self.log_probs = tuple(round(x, 1) for x in self.log_probs)


class _IgnoresMaxTokens(ToyBranch):
    def grow(self, until, *args):
        super().grow(replace(until, max_tokens=until.max_tokens and until.max_tokens + 1), *args)


class _OneKeyForAll(ToyBranch):
    def next_keys(self, n):
        return [7] * n if n == 1 else super().next_keys(n)


class _GrowsInPlace(ToyBranch):
    async def extend(self, *args, **options):
        children = await super().extend(*args, **options)
        self.text += children[0].text
        return children


def with_branch(kind):
    class Mutant(ToyLM):
        async def root(self, prompt):
            root = await super().root(prompt)
            root.__class__ = kind
            return root

    return Mutant


MUTANTS = {
    "forgets the seed": ForgetsSeed,
    "charges the prompt again": ChargesThePromptAgain,
    "lets closed branches be used": with_branch(_Reopens),
    "draws every single child with one key": with_branch(_OneKeyForAll),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_laws_catch_a_broken_model(name):
    with pytest.raises(AssertionError):
        await check_lm(lambda ledger, sampling: MUTANTS[name](random_law(5, 4), "abc", ledger, sampling), "abca")


class _SpeaksUpAside(ToyBranch):
    async def aside(self, ledger):
        return self


class _AsideOnItsOwnBill(ToyBranch):
    async def aside(self, ledger):
        return await super().aside(self._lm.ledger)


class _ReleasedTooSoon(ToyBranch):
    async def close(self):
        self._hold._count = 1
        await super().close()


class _NeverReleased(ToyBranch):
    def when_released(self, action):
        pass


BROKEN_BRANCHES = [_SpeaksUpAside, _AsideOnItsOwnBill, _ReleasedTooSoon, _NeverReleased]


@pytest.mark.parametrize("kind", BROKEN_BRANCHES)
async def test_laws_of_asides_and_releases_catch_a_broken_branch(kind, monkeypatch):
    monkeypatch.setattr("outthink.lm.toy.ToyBranch", kind)
    with pytest.raises(AssertionError):
        await check_lm(toy, "abca", laws=[asides_leave_no_trace, branches_are_released_with_all_below])


@pytest.mark.parametrize("kind", [_Overspends, _GrowsInPlace, _RoundsLogProbs, _IgnoresMaxTokens])
async def test_laws_catch_a_broken_branch(kind, monkeypatch):
    monkeypatch.setattr("outthink.lm.toy.ToyBranch", kind)
    with pytest.raises(AssertionError):
        await check_lm(toy, "abca")
