"""What every search keeps to: its budget, its branches, its seed, its bill; on the toy model and on the engine."""

import asyncio
import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import SamplingError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.search.tree import Search
from outthink.reason.solve import think
from search_world import PROMPT, Scores, StepWorld, grown, path_of, random_score, record_branches

STEPWISE = ["a-star", "ab-mcts", "dvts", "guided-beam", "levin", "mcts", "rebase", "step-beam", "step-greedy"]
NAMES = [*STEPWISE, "diverse-beam", "token-beam"]


def options_for(name, n=8):
    if name == "diverse-beam":
        return {"n": 4, "groups": 2}
    return {"n": 4} if name == "token-beam" else {"n": n}


def judge_for(name):
    return Scores(random_score(5)) if name in STEPWISE else None


async def run(name, lm, world, **more):
    return await think(world.question, lm, name, judge_for(name), **options_for(name), **more)


def told(posterior):
    """What a result must be equal in; log-weights to 4 digits, as batching may round differently."""
    lines = [(c.answer, c.text, round(c.log_weight, 4)) for c in posterior.candidates]
    return lines, posterior.attempts, posterior.stopped


# ---- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_anytime_and_nothing_left_open_under_every_budget(name, monkeypatch):
    """Token budgets from 0 to all: never an error, never overspent, no branch open, and an answer from the price of a
    line on."""
    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)
    whole = world.lm()
    await run(name, whole, world)
    line, answers = 1 + 2 * world.depth, []
    for tokens in range(0, whole.ledger.bill.tokens + 3, 1 + whole.ledger.bill.tokens // 60):
        lm = world.lm(Budget(tokens=tokens))
        posterior = await run(name, lm, world)
        assert lm.ledger.bill.tokens <= tokens
        assert all(branch.closed for branch in handed_out)
        answers.append((tokens, posterior.best))
        if posterior.best is None:
            assert posterior.stopped == "budget"
    assert answers[0][1] is None
    assert answers[-1][1] is not None
    if name in STEPWISE:
        assert all((best is not None) == (tokens >= line) for tokens, best in answers)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [Budget(flops=0), Budget(flops=4), Budget(seconds=0), Budget(tokens=0)])
async def test_anytime_under_other_budgets(name, limit, monkeypatch):
    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)
    lm = world.lm(limit)
    posterior = await run(name, lm, world)
    assert lm.ledger.bill.flops <= (limit.flops if limit.flops is not None else math.inf)
    assert all(branch.closed for branch in handed_out)
    assert posterior.stopped == "budget"


@pytest.mark.parametrize("name", NAMES)
async def test_the_bill_is_the_tree_each_position_once(name):
    world = StepWorld("abc", 3, 4)
    lm = world.lm()
    await run(name, lm, world)
    assert lm.ledger.bill.decoded == sum(thought.tokens for thought in lm.tree.walk())
    assert lm.ledger.bill.prefilled == len(PROMPT)


@pytest.mark.parametrize("name", NAMES)
async def test_on_the_engine_positions_are_computed_once_and_pages_given_back(name, make_tiny_model):
    """The engine's own counters: no position twice, drawn tokens as billed, no page left, under budgets and without."""
    model = make_tiny_model()
    question = Question("say it", line_answer, lambda answer: False)
    for tokens in [None, *range(0, 12, 3), 30, 77, 150]:
        lm = model.session(Ledger(Budget(tokens=tokens)))
        before = model.engine.stats.drawn, model.engine.stats.positions
        posterior = await think(question, lm, name, None, max_tokens=24, **options_for(name), **steps_of(name))
        bill = lm.ledger.bill
        assert tokens is None or bill.tokens <= tokens
        assert posterior.cost.decoded == sum(thought.tokens for thought in lm.tree.walk())
        model.thread.call(lambda: None)
        drawn, positions = (after - b for after, b in zip(counters(model), before, strict=True))
        assert drawn >= bill.decoded  # work that was given up in flight may have drawn one more
        assert drawn == bill.decoded
        assert positions <= bill.tokens
    assert model.engine.stats.recomputed == 0
    assert await num_leased(model) == 0


def counters(model):
    return model.engine.stats.drawn, model.engine.stats.positions


async def num_leased(model):
    """Pages held, once what the engine had already handed back has been given up."""
    for _ in range(3):
        model.thread.call(lambda: None)
        await asyncio.sleep(0)
    return model.thread.call(lambda: model.engine.cache.num_leased(model.engine.scheduler.leases()))


def line_answer(text):
    """The first letters of the first two lines, once there are two."""
    lines = text.split("\n")
    return "".join(line[:1] for line in lines[:2]) if len(lines) > 2 else None


def steps_of(name):
    return {"steps": "tokens:4"} if name in STEPWISE else {}


# ---- cancellation ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", NAMES)
async def test_cancelling_at_any_await_leaves_nothing_open(name, monkeypatch):
    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)
    turns, alive = 0, True
    while alive:
        alive = await cancelled_after(turns, run(name, world.lm(), world))
        assert all(branch.closed for branch in handed_out), f"open after {turns} turns"
        assert len(asyncio.all_tasks()) == 1, "a task was left behind"
        turns += 1 + turns // 12
    assert turns > 10


async def test_a_search_that_leaks_is_caught(monkeypatch):
    """The check above has power: without closing what is loose, or without cancelling what flies, it fails."""
    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)

    async def careless(self, *_):
        await self._flight.cancel()

    monkeypatch.setattr(Search, "__aexit__", careless)
    await cancelled_after(12, run("mcts", world.lm(), world))
    assert not all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", NAMES)
async def test_cancelling_on_the_engine_gives_all_pages_back(name, make_tiny_model):
    model = make_tiny_model()
    question = Question("say it", line_answer, lambda answer: False)
    for turns in (0, 1, 2, 3, 5, 8, 13, 40, 150, 600):
        work = think(question, model.session(), name, None, max_tokens=24, **options_for(name), **steps_of(name))
        await cancelled_after(turns, work)
        assert len(asyncio.all_tasks()) == 1
    assert await num_leased(model) == 0
    model.thread.call(model.engine.check_integrity)


async def test_an_error_of_the_verifier_ends_the_search_and_leaves_nothing_open(monkeypatch):
    class Broken(Scores):
        async def score(self, question, branches, ledger):
            if len(self.asked) > 1:
                raise UserError("no more")
            return await super().score(question, branches, ledger)

    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)
    for name in STEPWISE:
        with pytest.raises(UserError, match="no more"):
            await think(world.question, world.lm(), name, Broken(random_score(5)))
        assert all(branch.closed for branch in handed_out)
        assert len(asyncio.all_tasks()) == 1


# ---- seeds -----------------------------------------------------------------------------------------------------------


class Unsteady(Scores):
    """A verifier that takes its time, at each pace more for other lines."""

    def __init__(self, score, pace):
        super().__init__(score)
        self.pace = pace

    async def score(self, question, branches, ledger):
        for _ in range(self.pace * sum(map(ord, "".join(branch.full_text for branch in branches))) % 23):
            await asyncio.sleep(0)
        return await super().score(question, branches, ledger)


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("budget", [None, Budget(tokens=90)])
async def test_same_seed_same_result_at_any_pace(name, budget):
    """On the toy model with verifiers of different speed, so that work in flight is over in different orders."""
    world, results = StepWorld("abc", 4, 6), []
    for pace in range(4):
        judge = Unsteady(random_score(5), pace)
        lm = world.lm(budget, seed=3)
        posterior = await think(world.question, lm, name, judge, n=24)
        results.append((told(posterior), sorted(path_of(t) for t in grown(lm.tree) if t.fate == "chosen")))
    assert all(result == results[0] for result in results)
    others = [
        told(await think(world.question, world.lm(budget, seed=seed), name, Scores(random_score(5)), n=24))
        for seed in (4, 5, 6)
    ]
    assert any(other != results[0][0] for other in others), "three other seeds gave the same"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [None, 160])
async def test_same_seed_same_result_beside_other_work(name, tokens, tiny_model):
    question = Question("what now", line_answer, lambda answer: answer == "never")
    options = {"max_tokens": 24, **options_for(name), **steps_of(name)}

    async def once():
        lm = tiny_model.session(Ledger(Budget(tokens=tokens)), Sampling(seed=5))
        return await think(question, lm, name, None, **options)

    # The prompt is in the cache for both, so that both have the same to spend.
    await think(question, tiny_model.session(), "greedy", max_tokens=2)
    alone = await once()
    noise = [
        think(Question(f"other {i}", lambda text: None), tiny_model.session(), "majority-vote", n=5, max_tokens=12)
        for i in range(4)
    ]
    beside, *_ = await asyncio.gather(once(), *noise)
    assert told(alone) == told(beside)


async def test_taking_back_by_the_wall_clock_is_caught(monkeypatch):
    """The checks of the seed have power: work taken back in the order in which it really ends gives other results."""
    from outthink.reason.search.flight import Flight

    async def first_come(self):
        while True:
            for job in self._jobs:
                if job.task.done():
                    self._jobs.remove(job)
                    return job.task.result()[0]
            await asyncio.sleep(0)

    monkeypatch.setattr(Flight, "next", first_come)
    world, differ = StepWorld("abc", 4, 6), 0
    for name in ("mcts", "ab-mcts", "levin"):
        results = []
        for pace in range(4):
            posterior = await think(world.question, world.lm(seed=3), name, Unsteady(random_score(5), pace), n=24)
            results.append(told(posterior))
        differ += any(result != results[0] for result in results)
    assert differ > 0


# ---- what a search says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPWISE)
async def test_an_accepted_line_ends_the_search_at_once(name):
    world = StepWorld("abc", 3, 2)
    judge = Scores(lambda path: 0.0 if len(path) == 3 and path[0] == "b" else math.log(0.6), accept=0.0)
    lm = world.lm()
    posterior = await think(world.question, lm, name, judge, **options_for(name, 64))
    if posterior.stopped != "verified":  # these stop at the first finished line, and were not sent to the right one
        assert name in ("a-star", "levin", "step-greedy")
        return
    assert all(candidate.answer.startswith("b") for candidate in posterior.candidates)
    full = world.lm()
    await think(world.question, full, name, Scores(judge._score), **options_for(name, 64))
    assert lm.ledger.bill.tokens <= full.ledger.bill.tokens


@pytest.mark.parametrize("name", STEPWISE)
async def test_what_is_ruled_out_is_never_extended_nor_chosen(name):
    world = StepWorld("abc", 3, 2)
    judge = Scores(lambda path: -math.inf if "b" in path else math.log(0.6))
    lm = world.lm()
    posterior = await think(world.question, lm, name, judge, **options_for(name, 12))
    assert posterior.best is not None and "b" not in posterior.best
    assert not any("b" in path_of(t) for t in grown(lm.tree) if t.children)


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("budget", [None, Budget(tokens=200), Budget(flops=200)])
async def test_where_everything_is_ruled_out_there_is_still_a_line(name, budget, monkeypatch):
    world, handed_out = StepWorld("abc", 3, 2), record_branches(monkeypatch)
    judge = Scores(lambda path: -math.inf)
    posterior = await think(world.question, world.lm(budget), name, judge, **options_for(name))
    assert posterior.best in world.leaves()
    assert posterior.stopped in ("no line passed the verifier", *(["budget"] if budget else []))
    assert all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", STEPWISE)
async def test_the_exact_checker_judges_finished_lines_only(name):
    """It cannot judge a line on the way; a search that asked it to would rule out everything at once."""
    world = StepWorld("abc", 3, 2)
    question = Question(PROMPT, world.parse, lambda answer: answer[-1] == "c")
    posterior = await think(question, world.lm(seed=1), name, "exact", **options_for(name, 64))
    assert posterior.best.endswith("c")
    assert posterior.stopped == "verified"


@pytest.mark.parametrize("name", STEPWISE)
async def test_searches_note_what_they_did_in_the_tree(name):
    world = StepWorld("abc", 3, 2)
    lm = world.lm()
    posterior = await run(name, lm, world)
    thoughts = grown(lm.tree)
    assert all(t.value is not None for t in thoughts if t.fate != "the same as a sibling")
    assert any(t.fate == "chosen" and t.answer == posterior.best for t in thoughts)
    assert posterior.best_line.thought.fate == "chosen"


@pytest.mark.parametrize("name", STEPWISE)
async def test_lines_that_never_answer_end_at_max_tokens(name):
    """A model without line breaks or end: every way to cut steps ends, and the posterior says that there is nothing."""
    lm = ToyLM(lambda prefix: random_law(1, 3)(prefix) - [0, 0, 1e9], "ab", context=400)
    question = Question("a", lambda text: None, lambda answer: False)
    posterior = await think(question, lm, name, None, n=6, steps="tokens:3", max_tokens=9)
    assert posterior.best is None
    assert max(sum(t.tokens for t in thought.line()) for thought in lm.tree.walk()) <= 9


async def test_mistakes_are_user_errors_before_anything_is_spent():
    world = StepWorld()
    wrong = [
        ("step-beam", {"width": 0}),
        ("dvts", {"n": 0}),
        ("rebase", {"temperature": 0.0}),
        ("levin", {"answers": 0}),
        ("a-star", {"in_flight": 0}),
        ("mcts", {"exploration": -1.0}),
        ("ab-mcts", {"max_tokens": 0}),
        ("guided-beam", {"trust": 1.5}),
        ("step-greedy", {"width": -1}),
        ("token-beam", {"n": 101}),
        ("diverse-beam", {"groups": 0}),
    ]
    for name, options in wrong:
        lm = world.lm()
        with pytest.raises(UserError, match=r"at least|can be told apart"):
            await think(world.question, lm, name, None, **options)
        assert lm.ledger.bill.tokens == 0
    for name in STEPWISE:
        with pytest.raises(SamplingError, match="names no way to cut"):
            await think(world.question, world.lm(), name, None, steps="word")


def test_every_search_is_registered():
    assert set(NAMES) <= set(STRATEGIES.names())
    assert {STRATEGIES.get(name).family for name in STEPWISE} == {"search"}
