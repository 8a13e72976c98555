"""Budgets in every spelling, ledgers that charge their parents, and charging from many threads at once."""

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.core.budget import Bill, Budget, Ledger
from outthink.core.errors import BudgetError


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4k tokens", Budget(tokens=4000)),
        ("4ktokens", Budget(tokens=4000)),
        ("4K Tokens", Budget(tokens=4000)),
        ("  4 k  tok ", Budget(tokens=4000)),
        ("1 token", Budget(tokens=1)),
        ("250", Budget(tokens=250)),
        ("2.5k", Budget(tokens=2500)),
        (".5k", Budget(tokens=500)),
        ("1e3", Budget(tokens=1000)),
        ("1e+3 tokens", Budget(tokens=1000)),
        ("10_000 tokens", Budget(tokens=10000)),
        ("1,000 tokens", Budget(tokens=1000)),
        ("1,234,567, 3 s", Budget(tokens=1234567, seconds=3)),
        ("100,250", Budget(tokens=100250)),
        ("100, 250 s", Budget(tokens=100, seconds=250)),
        ("100_250 s", Budget(seconds=100250)),
        ("1M tokens", Budget(tokens=1e6)),
        ("2 m tok", Budget(tokens=2e6)),
        ("4. tokens", Budget(tokens=4)),
        ("0 tokens", Budget(tokens=0)),
        ("2.5 s", Budget(seconds=2.5)),
        ("2.5s", Budget(seconds=2.5)),
        ("1 second", Budget(seconds=1)),
        ("90 seconds", Budget(seconds=90)),
        ("3 sec", Budget(seconds=3)),
        ("5 ms", Budget(seconds=0.005)),
        ("4 min", Budget(seconds=240)),
        ("1 minute", Budget(seconds=60)),
        ("0.5h", Budget(seconds=1800)),
        ("1e12 flops", Budget(flops=1e12)),
        ("1 TFLOP", Budget(flops=1e12)),
        ("3 gflops", Budget(flops=3e9)),
        ("2 pflops", Budget(flops=2e15)),
        ("8k, 2.5 s", Budget(tokens=8000, seconds=2.5)),
        ("1 s,2 flops , 3 tokens", Budget(tokens=3, seconds=1, flops=2)),
    ],
)
def test_every_spelling(text: str, expected: Budget) -> None:
    assert Budget(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", "tokens", "k", "four tokens", "4 kilo", "4 tokens please", "4 5 tokens", "4k,", "4 days"),
        *("1m", "5 k s", "3 ks", "1,0000 tokens", "1,00 tokens", "1 m"),
        *("-4 tokens", "+4", "4..5", "1e", "1e400", "nan", "inf", "0x10", "٤ tokens", "1 kk", "4 tokens; 1 s"),
        *("1k tokens, 2k tokens", "1 s, 2 seconds", "1 min, 5 s"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(BudgetError, match=r"Budget|budget"):
        Budget(text)


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ("100,250 s", "100250 s", "100 tokens, 250 s"),
        ("1,000 flops", "1000 flops", "1 tokens, 000 flops"),
        ("8k, 1,234.5 ms", "1234.5 ms", "1 tokens, 234.5 ms"),
        ("1,234,567s", "1234567s", "1 tokens, 234567s"),
    ],
)
def test_digits_that_might_be_two_limits_are_refused_with_both_readings(text: str, one: str, two: str) -> None:
    with pytest.raises(BudgetError, match="ambiguous") as caught:
        Budget(text)
    assert repr(one) in str(caught.value)
    assert repr(two) in str(caught.value)
    assert Budget(one) != Budget(two)


@pytest.mark.parametrize("text", ["4\0 tokens", "1\0000 tokens"])
def test_a_nul_byte_groups_no_digits(text: str) -> None:
    with pytest.raises(BudgetError):
        Budget(text)


@given(
    tokens=st.none() | st.integers(0, 10**9),
    seconds=st.none() | st.floats(0, 1e6).map(lambda x: round(x, 3)),
    flops=st.none() | st.integers(0, 10**15).map(float),
)
def test_what_a_budget_prints_it_reads_again(tokens: float | None, seconds: float | None, flops: float | None) -> None:
    budget = Budget(tokens=tokens, seconds=seconds, flops=flops)
    if budget != Budget():
        read = Budget(str(budget))
        given, found = ({unit: x for unit, x in vars(b).items() if x is not None} for b in (budget, read))
        assert found == pytest.approx(given, rel=1e-9)


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, math.inf, True, "5"])
@pytest.mark.parametrize("unit", ["tokens", "seconds", "flops"])
def test_amounts_that_are_none_are_refused(unit: str, bad: object) -> None:
    with pytest.raises(BudgetError, match=unit):
        Budget(**{unit: bad})


def test_a_limit_may_be_set_once() -> None:
    assert Budget("4k", seconds=2) == Budget(tokens=4000, seconds=2)
    with pytest.raises(BudgetError, match="twice"):
        Budget("4k", tokens=4000)


def test_numbers_are_tokens_and_nothing_is_unlimited() -> None:
    assert Budget(300) == Budget(tokens=300)
    assert Budget() == Budget(None)
    assert (Budget().tokens, Budget().seconds, Budget().flops) == (None, None, None)
    assert str(Budget()) == "unlimited"
    assert str(Budget("4k, 2 s")) == "4,000 tokens, 2 seconds"


def test_a_ledger_is_exhausted_at_its_limit_and_not_before() -> None:
    ledger = Ledger(Budget(tokens=10, flops=100))
    ledger.charge(prefilled=3, cached=1, decoded=5, flops=99)
    assert not ledger.exhausted
    assert (ledger.tokens_left, ledger.flops_left) == (1, 1)
    ledger.charge(decoded=1)
    assert ledger.exhausted
    assert ledger.bill.tokens == 10
    by_flops = Ledger(Budget(tokens=10, flops=100))
    by_flops.charge(flops=100)
    assert by_flops.exhausted


def test_seconds_run_from_the_making_of_the_ledger() -> None:
    clock = Clock()
    ledger = Ledger(Budget(seconds=5), clock=clock)
    clock.now += 4.5
    assert (ledger.exhausted, ledger.seconds_left, ledger.bill.seconds) == (False, 0.5, 4.5)
    clock.now += 0.5
    assert ledger.exhausted


def test_a_fraction_of_a_token_is_none() -> None:
    ledger = Ledger(Budget(tokens=2.9))
    assert ledger.tokens_left == 2
    ledger.charge(decoded=2)
    assert ledger.exhausted
    assert Ledger(Budget(tokens=0.9)).exhausted


def test_a_zero_budget_is_exhausted_at_once() -> None:
    assert all(Ledger(Budget(**{unit: 0})).exhausted for unit in ("tokens", "seconds", "flops"))
    assert not Ledger().exhausted


def test_a_slice_charges_its_parents_and_is_bounded_by_them() -> None:
    whole = Ledger(Budget(tokens=100))
    half = whole.slice(Budget(tokens=50))
    quarter = half.slice(Budget())
    quarter.charge(prefilled=10, cached=3, decoded=20, flops=7, verifier_calls=1, tool_calls=2)
    for ledger in (whole, half, quarter):
        spent = ledger.bill
        assert (spent.prefilled, spent.cached, spent.decoded, spent.flops) == (10, 3, 20, 7)
        assert (spent.verifier_calls, spent.tool_calls) == (1, 2)
    assert (whole.tokens_left, half.tokens_left, quarter.tokens_left) == (67, 17, 17)
    whole.charge(decoded=62)
    assert (half.tokens_left, quarter.tokens_left, half.bill.tokens) == (5, 5, 33)
    whole.charge(decoded=5)
    assert whole.exhausted and half.exhausted and quarter.exhausted
    assert quarter.line == [quarter, half, whole]


def test_a_slice_that_is_spent_leaves_its_parent_alone() -> None:
    whole = Ledger(Budget(tokens=100))
    part = whole.slice(Budget(tokens=5))
    part.charge(decoded=5)
    assert part.exhausted
    assert not whole.exhausted
    part.cancel()
    assert not whole.cancelled


def test_cancelling_the_whole_cancels_its_slices() -> None:
    whole = Ledger()
    part = whole.slice(Budget()).slice(Budget(tokens=5))
    assert not part.exhausted
    whole.cancel()
    assert part.cancelled and part.exhausted and whole.exhausted


def test_the_clock_of_a_slice_starts_when_it_is_made() -> None:
    clock = Clock()
    whole = Ledger(Budget(seconds=10), clock=clock)
    clock.now += 4
    part = whole.slice(Budget(seconds=20))
    assert (part.seconds_left, part.bill.seconds) == (6, 0)


def test_the_fraction_spent_is_that_of_the_tightest_limit() -> None:
    clock = Clock()
    whole = Ledger(Budget(tokens=100, seconds=10), clock=clock)
    part = whole.slice(Budget(tokens=20))
    assert (Ledger().fraction_spent, whole.fraction_spent) == (0, 0)
    part.charge(decoded=10)
    assert (whole.fraction_spent, part.fraction_spent) == (0.1, 0.5)
    clock.now += 7
    assert (whole.fraction_spent, part.fraction_spent) == (0.7, 0.7)
    part.charge(decoded=90)
    assert (whole.fraction_spent, part.fraction_spent) == (1, 1)
    assert Ledger(Budget(tokens=0)).fraction_spent == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_a_whole_bill_is_the_sum_of_its_parts(charges: list[tuple[int, int, int]]) -> None:
    whole = Ledger(Budget(tokens=1000))
    parts = [whole.slice(Budget(tokens=100 * i)) for i in range(1, 5)]
    for part, prefilled, decoded in charges:
        parts[part].charge(prefilled=prefilled, decoded=decoded)
    assert whole.bill.tokens == sum(part.bill.tokens for part in parts) == sum(p + d for _, p, d in charges)
    for i, part in enumerate(parts, 1):
        assert part.tokens_left == max(0, min(100 * i - part.bill.tokens, 1000 - whole.bill.tokens))
        assert part.exhausted == (part.tokens_left == 0)


class Unlocked(Ledger):
    """A ledger whose charges take no turn: reads, lets others run, then writes."""

    def charge(self, *, decoded: int = 0, **_: int) -> None:
        bill = self._bill
        time.sleep(1e-5)
        self._bill = Bill(decoded=bill.decoded + decoded)


def charge_from_threads(whole: Ledger, parts: list[Ledger], times: int) -> None:
    start = threading.Barrier(len(parts))

    def work(ledger: Ledger) -> None:
        start.wait()
        for _ in range(times):
            ledger.charge(decoded=1)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_charge_is_lost_among_threads() -> None:
    whole = Ledger()
    parts = [whole.slice(Budget()) for _ in range(8)]
    charge_from_threads(whole, parts, 2000)
    assert whole.bill.decoded == 16_000
    assert [part.bill.decoded for part in parts] == [2000] * 8


def test_a_ledger_without_a_lock_is_noticed() -> None:
    whole = Unlocked()
    charge_from_threads(whole, [whole] * 8, 300)
    assert whole.bill.decoded < 2400


def test_a_bill_says_what_it_counts() -> None:
    bill = Bill(prefilled=1200, cached=30, decoded=45, flops=2_000_000, seconds=1.5)
    assert bill.tokens == 1275
    assert bill.to_json()["tokens"] == 1275
    assert "1,275 tokens (1,200 prefilled, 30 cached, 45 decoded), 2e+06 FLOPs, 1.50 s" in str(bill)
    assert "verifier" not in str(bill) and "3 verifier calls" in str(Bill(verifier_calls=3))
