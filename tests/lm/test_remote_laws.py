"""A server behind the `LM` protocol keeps its laws: all of them where it offers enough, else those that apply."""

import pytest

from outthink.core.errors import CapabilityError
from outthink.lm import laws
from outthink.lm.laws import LAWS, check_lm
from outthink.lm.remote.laws import laws_of

KEPT = {"all": 18, "text": 13, "bare": 10, "chat": 11, "whole lines": 7}


@pytest.mark.parametrize("name", KEPT)
async def test_a_server_keeps_the_laws_that_apply_to_it(serving, name):
    served = serving(name)
    kept = laws_of(served.model)
    assert len(kept) == KEPT[name], [law.__name__ for law in kept]
    if name == "all":
        assert kept == LAWS
    await check_lm(served.model.session, "1 2 3 ab", laws=kept)


@pytest.mark.parametrize(
    ("name", "law", "because"),
    [
        ("text", laws.budgets_are_charged_once, "were drawn and"),
        ("bare", laws.extending_is_deterministic, "the same seed gave"),
        ("bare", laws.prefixes_are_immutable, "gave no log-probabilities"),
        ("whole lines", laws.closed_branches_refuse_use, "cannot go on from a partly written answer"),
    ],
)
async def test_a_law_that_does_not_apply_is_broken(serving, name, law, because):
    served = serving(name)
    assert law not in laws_of(served.model)
    with pytest.raises((AssertionError, CapabilityError), match=because):
        await check_lm(served.model.session, "1 2 3 ab", laws=[law])
