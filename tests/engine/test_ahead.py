"""Steps taken in one call draw, bill and cache to the last bit what single steps do, and end when anything is asked."""

import math
import random
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import outthink.engine.ahead as ahead
from cpu_cases import make_config, make_model
from engine.fakes import FakeVocabulary
from engine.world import COSTS
from outthink.core.budget import Budget, Ledger
from outthink.core.progress import Progress
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.sequence import Extend, Prompt, Score
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.step import DecodeBatch, Laws, Stops
from outthink.scheduling import Limits

MODEL = make_model(make_config(vocab_size=12, tie_embeddings=False))
SAMPLINGS = [
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.6, top_k=5),
    Sampling(seed=3, temperature=1.6, top_p=0.9, min_p=0.01),
    Sampling(temperature=0.0),
    Sampling(seed=4, frequency_penalty=0.4),  # what must be drawn by hand
    Sampling(seed=5, top_logprobs=2),
]
UNTILS = [
    Until(40, ignore_eos=True),
    Until(23),
    Until(30, stop=("abc", "bb")),
    Until(30, stop=("né\n",), stop_tokens=(5,)),
    Until(1),
    Until(),
]


@dataclass
class Account:
    """Everything that came of a set of tasks."""

    texts: list = field(default_factory=list)
    bills: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    calls: int = 0  # of the backend


class Counting(CpuBackend):
    """Counts the calls that compute."""

    calls = 0

    def run(self, batch):
        """See `Backend.run`."""
        self.calls += 1
        return super().run(batch)

    def decode(self, batch: DecodeBatch, steps, seconds, interrupt):
        """See `Decoder.decode`."""
        self.calls += 1
        return super().decode(batch, steps, seconds, interrupt)


def make_engine(num_pages: int, *, single: bool, **limits: int) -> Engine:
    backend = Counting(MODEL, num_pages, threads=1)
    engine = Engine(backend, FakeVocabulary(), COSTS, 200, Limits(**limits))
    if single:
        engine._ahead = None
    return engine


def extend(engine: Engine, prompt: list[int], width: int, until: Until, sampling: Sampling, ledger: Ledger, user: int):
    account = Prompt(len(prompt), len(prompt))
    keys = [mix(user, i) for i in range(width)]
    root = engine.open_root(prompt)
    options = {"keys": keys, "until": until, "sampling": sampling, "limit": engine.max_positions}
    task = Extend(root, ledger, lambda _: None, pytest.fail, account, **options)
    engine.start(task)
    return task


def grow(seed: int, *, single: bool) -> Account:
    """A few tasks of all kinds: at once and under budgets, or with few pages and some while others grow."""
    rng = random.Random(seed)
    calm = rng.random() < 0.5
    limits = rng.choice([{}, {"max_batch_tokens": 9}, {"max_sequences": 5}])
    engine = make_engine(200 if calm else rng.choice([16, 30]), single=single, **limits)
    whole = Ledger(Budget(tokens=rng.choice([None, rng.randrange(40, 400)]) if calm else None))
    ledgers = [whole, Ledger()]
    if calm:
        ledgers += [whole.slice(Budget(tokens=rng.choice([61, 150]))), Ledger(Budget(flops=rng.choice([3e4, 9e5])))]
    only = rng.choice([SAMPLINGS, SAMPLINGS[:4]])
    tasks, account = [], Account()
    for user in range(rng.randrange(1, 7)):
        prompt = [rng.randrange(10) for _ in range(rng.choice([1, 15, 40]))]
        ledger, until, sampling = rng.choice(ledgers), rng.choice(UNTILS), rng.choice(only)
        tasks.append(extend(engine, prompt, rng.randrange(1, 6), until, sampling, ledger, user))
        if rng.random() < 0.3:
            root = engine.open_root(prompt)
            engine.start(Score(root, ledger, account.scores.append, pytest.fail, Prompt(1, 0), tokens=[1, 2, 3]))
        drawn = 0 if calm else rng.randrange(30)
        while engine.stats.drawn < drawn and engine.step():
            engine.check_integrity()
    while engine.step():
        engine.check_integrity()
    for child in (child for task in tasks for child in task.children):
        it = child.generation
        assert it is not None
        values = (it.log_probs, it.sample_log_probs, it.top_log_probs)
        account.texts.append((child.tokens, bytes(it.text), it.finish, it.stop, it.stop_at, it.completion, values))
    account.bills = [replace(ledger.bill, seconds=0.0) for ledger in ledgers] if calm else []
    for ledger in ledgers:
        assert ledger.budget.tokens is None or ledger.bill.tokens <= ledger.budget.tokens
    assert all(task.over for task in tasks)
    account.calls = engine.backend.calls
    return account


def compare(seeds: range) -> int:
    """Raises AssertionError where anything differs; how many calls of the backend were saved."""
    saved = 0
    for seed in seeds:
        together, one_by_one = grow(seed, single=False), grow(seed, single=True)
        assert together.texts == one_by_one.texts, seed
        assert together.bills == one_by_one.bills, seed
        assert sorted(together.scores) == sorted(one_by_one.scores), seed
        saved += one_by_one.calls - together.calls
    return saved


def test_many_steps_in_one_call_are_as_good_as_single_ones() -> None:
    assert compare(range(40)) > 400


@pytest.mark.slow
def test_many_steps_in_one_call_are_as_good_as_single_ones_in_many_worlds() -> None:
    assert compare(range(1_000, 2_000)) > 10_000


def no_ledger_counts(growing, rows, costs, steps: int) -> int:
    """Budgets looked at between calls alone."""
    return steps


def no_marks(self, extend: Extend) -> Stops:
    """Stop tokens left out."""
    return replace(ORIGINAL_STOPS(self, extend), tokens=())


def other_keys(generations) -> Laws:
    """Random numbers of another key."""
    laws = ORIGINAL_LAWS(generations)
    return replace(laws, keys=laws.keys[::-1].copy())


ORIGINAL_LAWS, ORIGINAL_STOPS = ahead.laws, ahead.Ahead._stops


@pytest.mark.parametrize("broken", [no_ledger_counts, no_marks, other_keys])
def test_calls_that_overlook_something_are_noticed(broken, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {no_ledger_counts: "affordable_steps", no_marks: "Ahead._stops", other_keys: "laws"}[broken]
    monkeypatch.setattr(f"outthink.engine.ahead.{where}", broken)
    with pytest.raises(AssertionError):
        compare(range(12))


def make_batch(rows: int, **changes) -> DecodeBatch:
    """One position each, the first; up to 20 tokens."""
    ones, ints = np.ones(rows), lambda values: np.array(values, np.int32)
    laws = Laws(np.arange(rows, dtype=np.uint64), ones, ones, 0 * ones, ints([0] * rows))
    batch = DecodeBatch(
        tokens=ints([1] * rows),
        positions=ints([0] * rows),
        page_tables=ints(np.arange(2 * rows).reshape(rows, 2)),
        limits=ints([20] * rows),
        groups=ints([0] * rows),
        laws=laws,
        stops=[Stops((), ())],
        tails=[b""] * rows,
    )
    return replace(batch, **changes)


def never() -> np.ndarray:
    return np.zeros(1, np.int32)


def test_a_call_ends_with_the_step_in_which_it_is_interrupted_or_out_of_time_or_a_group_is_done() -> None:
    backend = CpuBackend(MODEL, 64, threads=1)
    assert backend.decode(make_batch(3), 20, 60.0, never()).counts.tolist() == [20, 20, 20]
    assert backend.decode(make_batch(3), 20, 60.0, never() + 1).counts.tolist() == [1, 1, 1]
    assert backend.decode(make_batch(3), 20, 0.0, never()).counts.tolist() == [1, 1, 1]
    limits = np.array([3, 20, 5], np.int32)
    assert backend.decode(make_batch(3, limits=limits), 20, 60.0, never()).counts.tolist() == [3, 20, 5]
    groups = {"groups": np.array([0, 1, 0], np.int32), "stops": [Stops((), ())] * 2}
    decoded = backend.decode(make_batch(3, limits=limits, **groups), 20, 60.0, never())
    assert (decoded.counts.tolist(), decoded.steps) == ([3, 5, 5], 5)


def test_asking_charging_and_cancelling_interrupt_a_call() -> None:
    engine = make_engine(64, single=False)
    whole = Ledger(Budget(tokens=1_000))
    task = extend(engine, [1, 2, 3], 2, Until(150, ignore_eos=True), Sampling(), whole.slice(Budget()), 0)
    flag = engine._interrupt.array
    for act in (whole.cancel, lambda: whole.charge(decoded=1), lambda: engine.submit(lambda: None), engine.interrupt):
        engine.step_inbox()
        assert flag[0] == 0
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
        assert flag[0] == 1
    while engine.step():
        pass
    assert {child.generation.finish for child in task.children} == {"budget"}


def watched(seed: int, *, single: bool) -> tuple[list, list]:
    """What is shown of a few texts, and drawn, as it is told."""
    engine, shown, drawn = make_engine(64, single=single), [], []
    for user, until in enumerate([Until(40, ignore_eos=True), Until(30, stop=("né\n", "bb")), Until(9)]):
        account = Prompt(2, 2)
        options = {"keys": [mix(seed, i) for i in range(3)], "sampling": Sampling(seed=seed), "limit": 200}

        def show(index: int, text: str, user=user) -> None:
            shown.append((user, index, text))

        def draw(index: int, token: int, log_prob: float, top, user=user) -> None:
            before = sum(len(text) for u, i, text in shown if (u, i) == (user, index))
            drawn.append((user, index, token, log_prob, list(top), before))

        task = Extend(
            engine.open_root([1, 2]), Ledger(), lambda _: None, pytest.fail, account, until=until, **options,
            on_token=show, on_draw=draw,
        )  # fmt: skip
        engine.start(task)
    while engine.step():
        pass
    engine.check_integrity()
    key = lambda each: each[:2]  # noqa: E731  the order within one text is the order told
    return sorted(shown, key=key), sorted(drawn, key=key)


def test_what_is_told_of_a_text_is_the_same_however_many_steps_a_call_takes() -> None:
    for seed in range(12):
        assert watched(seed, single=False) == watched(seed, single=True), seed


def advanced() -> list[int]:
    """How far a text was whenever somebody was told whom 6, 7 or 31 tokens concern."""
    engine, told = make_engine(64, single=False), []
    waiting = iter([6, 30, math.inf])

    def reached() -> None:
        told.append(progress.longest)
        progress.wait_beyond(next(waiting))

    progress = Progress(reached)
    progress.wait_beyond(5)
    options = {"keys": [1, 2], "until": Until(100, ignore_eos=True), "sampling": Sampling(seed=1), "limit": 200}
    account = Prompt(2, 2)
    engine.start(
        Extend(engine.open_root([1, 2]), Ledger(), lambda _: None, pytest.fail, account, progress=progress, **options)
    )
    while engine.step():
        pass
    assert progress.longest == 100
    return told


def test_a_call_ends_where_somebody_waits_for_what_is_drawn() -> None:
    assert advanced() == [6, 7, 31]


def test_calls_that_run_past_what_is_awaited_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead.Ahead, "_unwatched", lambda self, growing: self._reach)
    assert advanced() != [6, 7, 31]


def test_a_text_that_is_watched_ends_soon_after_who_watches_cancels_it() -> None:
    engine, shown = make_engine(64, single=False), []
    account = Prompt(2, 2)
    ledger = Ledger()

    def show(_: int, text: str) -> None:
        shown.append(text)
        if len(shown) == 5:
            ledger.cancel()

    options = {"keys": [1], "until": Until(100, ignore_eos=True), "sampling": Sampling(seed=1), "limit": 200}
    task = Extend(engine.open_root([1, 2]), ledger, lambda _: None, pytest.fail, account, on_token=show, **options)
    engine.start(task)
    while engine.step():
        pass
    [child] = task.children
    assert child.generation.finish == "budget"
    assert child.generation.text.decode(errors="replace") == "".join(shown)
    assert len(shown) <= 10  # one, then a call of eight, and perhaps the rest of a character


def test_damage_in_the_midst_of_a_call_ends_its_own_task_alone() -> None:
    model = make_model(make_config(vocab_size=12, tie_embeddings=False))
    sound = grown_by(model)
    assert any(4 in tokens for tokens in sound) and any(4 not in tokens for tokens in sound)
    with pytest.MonkeyPatch.context():
        model.model.embed_tokens.weight.data[4] = np.nan
    for mine, theirs in zip(grown_by(model), sound, strict=True):
        if 4 in theirs[:-1]:
            assert isinstance(mine, BaseException) and "after token 4" in str(mine)
        else:
            assert mine == theirs


def grown_by(model) -> list:
    """What ten tasks of one child each came to: its tokens, or the error."""
    backend = CpuBackend(model, 64, threads=1)
    engine = Engine(backend, FakeVocabulary(), Costs(lambda _, count: count, 1), 120, Limits())
    results: list = [None] * 10
    for user in range(10):
        account, until = Prompt(2, 2), Until(9, ignore_eos=True)

        def done(children, user=user) -> None:
            results[user] = children[0].tokens[2:]

        def failed(error, user=user) -> None:
            results[user] = error

        options = {"keys": [mix(user, 0)], "until": until, "sampling": Sampling(seed=6), "limit": 120}
        engine.start(Extend(engine.open_root([1, 2]), Ledger(), done, failed, account, **options))
    while engine.step():
        engine.check_integrity()
    return results


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": np.array([12, 1], np.int32)}, "outside the vocabulary"),
        ({"positions": np.array([-1, 0], np.int32)}, "out of range"),
        ({"positions": np.array([0, 30], np.int32)}, "exceeds its 32 positions"),
        ({"page_tables": np.array([[0, 64], [2, 3]], np.int32)}, "page id 64"),
        ({"limits": np.array([0, 1], np.int32)}, "limits must be"),
        ({"limits": np.array([21, 1], np.int32)}, "limits must be"),
        ({"groups": np.array([0, 1], np.int32)}, "belongs to no group"),
        ({"groups": np.array([0, -1], np.int32)}, "belongs to no group"),
        ({"tails": [b""]}, "one entry for each row"),
        ({"stops": [Stops((), (b"x",))]}, "spelling of tokens"),
    ],
)
def test_what_does_not_make_a_batch_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpuBackend(MODEL, 64, threads=1).decode(make_batch(2, **changes), 20, 60.0, never())
