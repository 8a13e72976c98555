"""The quick toy model that statistical tests use is the toy model."""

import pytest

from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM
from quick_toy import cached_law, toy


@pytest.mark.parametrize("sampling", [Sampling(seed=3), Sampling(seed=4, logit_bias={0: 1.5, 2: -9.0})])
@pytest.mark.parametrize("until", [Until(), Until(3), Until(stop=("b",)), Until(2, stop=("ca",))])
async def test_quick_toy_draws_the_very_same_lines(until, sampling):
    slow, fast = ToyLM(cached_law(3, 4), "abc", context=9), toy("abc", 9)
    for lm in (slow, fast):
        lm.sampling = sampling
    first, second = await slow.root("ab"), await fast.root("ab")
    for a, b in zip(await first.extend(60, until), await second.extend(60, until), strict=True):
        for x, y in [(a, b), *zip(await a.extend(2, until), await b.extend(2, until), strict=True)]:
            for field in ("tokens", "text", "completion", "finish", "ended", "full_text"):
                if not (field == "completion" and until.stop):
                    assert getattr(x, field) == getattr(y, field)
            assert x.log_probs == pytest.approx(y.log_probs, abs=1e-6)
            assert x.sample_log_probs == pytest.approx(y.sample_log_probs, abs=1e-6)
    assert slow.ledger.bill.tokens == fast.ledger.bill.tokens
