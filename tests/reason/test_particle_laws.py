"""What every particle method, every aggregation and every combination keeps to: budget, branches, seed, bill."""

import asyncio
import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.combine import ensemble, retry, split, then, within
from outthink.reason.holding import Holding
from outthink.reason.solve import think
from particle_world import Judge
from search_world import record_branches

ALPHABET, PROMPT, LONGEST = "ab\n", "ab", 9
PARTICLES = ["particle-filter", "entropic-particle-filter", "particle-gibbs", "tempered-particle-gibbs"]
TOKENS = ["token-smc", "twisted-smc"]
VOTES = [
    "weighted-vote",
    "adaptive-vote",
    "confident-vote",
    "probability-consistency",
    "subthought-vote",
    "hint-marginalization",
]
NAMES = [*PARTICLES, *TOKENS, *VOTES, "sample-while-worthwhile"]
VOTE, FILTER = STRATEGIES.get("majority-vote"), STRATEGIES.get("particle-filter")
COMBINED = {
    "retry": retry(FILTER, 2, good=lambda found: found.confidence > 0.9),
    "ensemble": ensemble(FILTER, VOTE, STRATEGIES.get("probability-vote")),
    "then": then(VOTE, FILTER, below=0.95),
    "split": split((VOTE, 0.3), (FILTER, 0.7)),
    "within": within(FILTER, share=0.5),
}
ALL = [*NAMES, *COMBINED]


def law(prefix):
    shift = [0.0, 0.0, 1.0, -1.0] if len(prefix) < 5 else [0.0, 0.0, 1.0, 1.0]
    return random_law(5, 4, 0.8)(prefix) + shift


def last_letter(text):
    return text[-1] if len(text) >= 2 and text[-1] != "\n" else None


def toy(budget=None, seed=0):
    return ToyLM(law, ALPHABET, Ledger(budget), Sampling(seed=seed), context=len(PROMPT) + LONGEST)


async def run(name, lm, judge=None, n=12, **options):
    """A strategy on a toy problem; the combined ones have options of their own."""
    strategy, limits = (COMBINED[name], {}) if name in COMBINED else (name, {"n": n, **options})
    verifier = judge or ("exact" if name == "sample-while-worthwhile" else Judge())
    return await think(Question(PROMPT, last_letter, lambda answer: False), lm, strategy, verifier, **limits)


def told(posterior):
    lines = [(c.answer, c.text, round(c.log_weight, 4)) for c in posterior.candidates]
    evidence = None if posterior.log_evidence is None else round(posterior.log_evidence, 4)
    return lines, posterior.attempts, posterior.stopped, evidence


# ---- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
async def test_anytime_and_nothing_left_open_under_every_budget(name, monkeypatch):
    """Token budgets from 0 up: never an error, never overspent, no branch open; an answer where there is room."""
    handed_out, answers = record_branches(monkeypatch), []
    for tokens in [*range(14), *range(15, 90, 9), 160, 300]:
        lm = toy(Budget(tokens=tokens))
        posterior = await run(name, lm)
        assert posterior.cost.tokens <= tokens
        assert all(branch.closed for branch in handed_out)
        answers.append(posterior.best)
    assert answers[0] is None
    if name != "sample-while-worthwhile":  # nothing that it accepts
        assert answers[-1] is not None


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("limit", [Budget(flops=0), Budget(flops=30), Budget(seconds=0)])
async def test_anytime_under_other_budgets(name, limit, monkeypatch):
    handed_out = record_branches(monkeypatch)
    lm = toy(limit)
    posterior = await run(name, lm)
    assert posterior.cost.flops <= (limit.flops if limit.flops is not None else 0)
    assert all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", ALL)
async def test_the_bill_is_the_tree(name):
    lm = toy()
    await run(name, lm)
    assert lm.ledger.bill.decoded == sum(thought.tokens for thought in lm.tree.walk())


@pytest.mark.parametrize("name", PARTICLES + TOKENS)
async def test_under_a_budget_most_of_what_is_begun_is_finished(name):
    found = await run(name, toy(Budget(tokens=200)), n=64)
    leaves = [t for t in found.tree.walk() if t.tokens and not t.children]
    cut = [t for t in leaves if t.fate == "cut by the budget"]
    assert found.cost.tokens > 120, "the budget was left lying"
    assert len(cut) <= max(2, len(leaves) // 3)


# ---- cancellation ---------------------------------------------------------------------------------------------------


async def cancelled_after(turns, work):
    """Whether the work was cancelled before it was done."""
    task = asyncio.create_task(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@pytest.mark.parametrize("name", ALL)
async def test_cancelling_at_any_await_leaves_nothing_open(name, monkeypatch):
    handed_out, turns, alive = record_branches(monkeypatch), 0, True
    while alive:
        alive = await cancelled_after(turns, run(name, toy(), n=8))
        assert all(branch.closed for branch in handed_out), f"open after {turns} turns"
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "a task was left behind"
        turns += 1 + turns // 5
    assert turns > 10


async def test_a_filter_that_leaks_is_caught(monkeypatch):
    handed_out = record_branches(monkeypatch)

    async def careless(self, *_):
        pass

    monkeypatch.setattr(Holding, "__aexit__", careless)
    await cancelled_after(12, run("particle-filter", toy()))
    assert not all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", ALL)
async def test_cancelling_on_the_engine_gives_all_pages_back(name, make_tiny_model):
    model = make_tiny_model()
    question = Question("say it", lambda text: text[:1] or None, lambda answer: False)
    options = {} if name in COMBINED else {"n": 8, "max_tokens": 12}
    options |= {"steps": "tokens:3"} if name in [*PARTICLES, "subthought-vote"] else {}
    strategy, verifier = COMBINED.get(name, name), "exact" if name == "sample-while-worthwhile" else None
    for turns in (0, 1, 2, 4, 9, 30, 120):
        await cancelled_after(turns, think(question, model.session(), strategy, verifier, **options))
        assert len(asyncio.all_tasks()) == 1
    for _ in range(3):
        model.thread.call(lambda: None)
        await asyncio.sleep(0)
    assert model.thread.call(lambda: model.engine.cache.num_leased(model.engine.scheduler.leases())) == 0
    model.thread.call(model.engine.check_integrity)


@pytest.mark.parametrize("name", [*PARTICLES, "token-smc", *COMBINED])
async def test_an_error_of_the_verifier_is_the_user_s_and_leaves_nothing_open(name, monkeypatch):
    class Broken(Judge):
        asked = 0

        async def score(self, question, branches, ledger):
            self.asked += 1
            if self.asked > 3:
                raise UserError("no more")
            return await super().score(question, branches, ledger)

    handed_out = record_branches(monkeypatch)
    with pytest.raises(UserError, match="no more"):
        await run(name, toy(), Broken(), n=8)
    assert all(branch.closed for branch in handed_out)
    assert len(asyncio.all_tasks()) == 1


# ---- seeds ----------------------------------------------------------------------------------------------------------


class Unsteady(Judge):
    """A verifier that takes its time, at each pace more for other lines."""

    def __init__(self, pace):
        super().__init__()
        self.pace = pace

    async def score(self, question, branches, ledger):
        for _ in range(self.pace * sum(map(ord, "".join(branch.full_text for branch in branches))) % 23):
            await asyncio.sleep(0)
        return await super().score(question, branches, ledger)


@pytest.mark.parametrize("name", [*PARTICLES, *TOKENS, "ensemble"])
@pytest.mark.parametrize("budget", [None, Budget(tokens=150)])
async def test_same_seed_same_result_at_any_pace(name, budget):
    results = [told(await run(name, toy(budget, seed=3), Unsteady(pace))) for pace in range(4)]
    assert all(result == results[0] for result in results)
    assert told(await run(name, toy(budget, seed=4), Judge())) != results[0]


@pytest.mark.parametrize(
    ("name", "tokens"), [*((n, t) for n in NAMES for t in (None, 150)), *((n, 400) for n in COMBINED)]
)
async def test_same_seed_same_result_beside_other_work(name, tokens, tiny_model):
    question = Question("what now", lambda text: text[:1] or None, lambda answer: answer == "never")
    options = {} if name in COMBINED else {"n": 8, "max_tokens": 12}
    options |= {"steps": "tokens:3"} if name in [*PARTICLES, "subthought-vote"] else {}
    strategy, verifier = COMBINED.get(name, name), "exact" if name == "sample-while-worthwhile" else None

    async def once():
        lm = tiny_model.session(Ledger(Budget(tokens=tokens)), Sampling(seed=5))
        return await think(question, lm, strategy, verifier, **options)

    # The prompt is in the cache for both, so that both have the same to spend.
    await think(question, tiny_model.session(), "greedy", max_tokens=2)
    alone = await once()
    noise = [
        think(Question(f"other {i}", lambda text: None), tiny_model.session(), "majority-vote", n=5, max_tokens=12)
        for i in range(4)
    ]
    beside, *_ = await asyncio.gather(once(), *noise)
    assert told(alone) == told(beside)


# ---- what a filter says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTICLES)
async def test_where_everything_is_ruled_out_there_is_still_a_line(name):
    class Never(Judge):
        def of(self, text):
            return -math.inf

    found = await run(name, toy(seed=1), Never())
    assert found.stopped == "no line passed the verifier"
    assert found.log_evidence == -math.inf
    assert found.confidence <= 1 / found.attempts
    assert sum(t.tokens > 0 and t.finish == "stop" for t in found.tree.walk()) >= 1


@pytest.mark.parametrize("name", PARTICLES + TOKENS)
async def test_what_was_done_is_noted_in_the_tree(name):
    found = await run(name, toy(), n=32)
    grown = [t for t in found.tree.walk() if t.tokens]
    assert all(t.value is not None for t in grown)
    assert any(t.fate == "chosen" and t.answer == found.best for t in grown)
    leaves = [t for t in grown if not t.children]
    assert all(t.fate is not None for t in leaves)


async def test_copies_share_what_they_were_copied_from_on_the_engine(make_tiny_model):
    """Every position of the tree is computed once: a particle's copies go on from its own pages."""
    model = make_tiny_model()
    question = Question("say it", lambda text: text[:1] or None)
    lm = model.session()
    found = await think(question, lm, "particle-filter", None, n=16, max_tokens=16, steps="tokens:2", floor=1.0)
    bill = lm.ledger.bill
    model.thread.call(lambda: None)
    assert bill.decoded == sum(t.tokens for t in found.tree.walk())
    assert bill.decoded < 16 * 16, "no particle was ever copied"
    assert model.engine.stats.recomputed == 0
    assert model.engine.stats.positions <= bill.tokens
