"""A server behind the `LM` protocol keeps its laws: all of them where it offers enough, else those that apply."""

import pytest

from outthink.core.errors import CapabilityError
from outthink.lm import laws
from outthink.lm.laws import LAWS, check_lm
from outthink.lm.remote.laws import laws_of

EXACT = {
    "scores_are_sums_of_log_probabilities",
    "fed_text_is_a_prefix_like_any_other",
    "another_ledger_pays",
    "budgets_are_charged_once",
    "asides_leave_no_trace",
}
SCORING = {"prefixes_are_immutable", "budgets_are_kept"}
SEEDED = {"extending_is_deterministic"}
WHOLE_LINES = {"closed_branches_refuse_use", "time_is_kept", "flops_are_kept"}
LEFT_OUT = {
    "all": set(),
    "text": EXACT,
    "bare": EXACT | SCORING | SEEDED,
    "chat": EXACT | SCORING,
    "whole lines": EXACT | SCORING | SEEDED | WHOLE_LINES,
}


@pytest.mark.parametrize("name", LEFT_OUT)
async def test_a_server_keeps_the_laws_that_apply_to_it(serving, name):
    served = serving(name)
    kept = laws_of(served.model)
    assert {law.__name__ for law in LAWS} - {law.__name__ for law in kept} == LEFT_OUT[name]
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
