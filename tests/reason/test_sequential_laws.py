"""What every sequential and mixed strategy keeps to: budget, branches, seed, bill; on the toy model and the engine."""

import asyncio
import math

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM
from outthink.reason import STRATEGIES
from outthink.reason.combine import bind, ensemble, then
from outthink.reason.holding import Holding
from outthink.reason.solve import think
from search_world import PROMPT, Scores, StepWorld, random_score, record_branches

WORLD, OTHER = StepWorld("abc", 3, 2), StepWorld("abc", 3, 9)
MODELS = {"speculative-steps": "draft", "two-models": "second"}
NAMES = ["revise", "evolve", "budget-forcing", *MODELS]
OPTIONS = {
    "budget-forcing": {"ends": ("c\n",), "wait": "a\n", "answer": "b\n", "reserve": 3, "least": 3, "most": 5},
    "revise": {"bad": 0.9},
}
IN_WORDS = {"revise": {"feedback": "b\n"}, "evolve": {"combine": "b\n"}}


def options_for(name, n=8):
    """Options on the world of steps, its second model among them."""
    options = {"n": n, **OPTIONS.get(name, {})}
    return options | ({MODELS[name]: OTHER.lm(seed=7)} if name in MODELS else {})


def judge():
    return Scores(random_score(5))


async def run(name, lm, verifier=None, n=8, **more):
    return await think(WORLD.question, lm, name, verifier or judge(), **options_for(name, n), **more)


def told(posterior):
    lines = [(c.answer, c.text, round(c.log_weight, 4)) for c in posterior.candidates]
    return lines, posterior.attempts, posterior.stopped


def drawn(tree):
    """Tokens that were drawn: given text has no finish."""
    return sum(thought.tokens for thought in tree.walk() if thought.finish is not None)


@pytest.fixture
def handed_out(monkeypatch):
    return record_branches(monkeypatch)


# ---- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_anytime_and_nothing_left_open_under_every_budget(name, handed_out):
    answers = []
    for tokens in [*range(10), *range(10, 80, 11), 200]:
        lm = WORLD.lm(Budget(tokens=tokens))
        posterior = await run(name, lm)
        assert lm.ledger.bill.tokens <= tokens
        assert all(branch.closed for branch in handed_out)
        assert posterior.best is not None or posterior.stopped == "budget"
        answers.append(posterior.best)
    assert answers[0] is None
    assert answers[-1] is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [Budget(flops=0), Budget(flops=4), Budget(flops=40), Budget(seconds=0)])
async def test_anytime_under_other_budgets(name, limit, handed_out):
    lm = WORLD.lm(limit)
    await run(name, lm)
    assert lm.ledger.bill.flops <= (limit.flops if limit.flops is not None else 0)
    assert all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [None, Budget(tokens=150)])
async def test_the_bill_is_the_tree(name, budget):
    lm = WORLD.lm(budget)
    await run(name, lm, n=24)
    assert lm.ledger.bill.decoded == drawn(lm.tree) > 10


@pytest.mark.parametrize("name", IN_WORDS)
async def test_in_words_too(name, handed_out):
    for tokens in [None, *range(0, 60, 7), 150]:
        lm = WORLD.lm(Budget(tokens=tokens))
        await run(name, lm, **IN_WORDS[name])
        assert tokens is None or lm.ledger.bill.tokens <= tokens
        assert lm.ledger.bill.decoded == drawn(lm.tree)
        assert all(branch.closed for branch in handed_out)


@pytest.mark.parametrize("name", NAMES)
async def test_on_the_engine_every_budget_is_kept_and_pages_come_back(name, make_tiny_model):
    model, small = make_tiny_model(), make_tiny_model()
    for tokens in [None, 9, 60]:
        lm = model.session(Ledger(Budget(tokens=tokens)))
        await think(asked(), lm, name, None, **on_engine(name, small))
        assert tokens is None or lm.ledger.bill.tokens <= tokens
        assert lm.ledger.bill.decoded == drawn(lm.tree)
    assert model.engine.stats.recomputed == small.engine.stats.recomputed == 0
    assert await num_leased(model) == await num_leased(small) == 0


def asked():
    return Question("say it", line_answer, lambda answer: False)


def line_answer(text):
    """The first letters of the first two lines, once there are two."""
    lines = text.split("\n")
    return "".join(line[:1] for line in lines[:2]) if len(lines) > 2 else None


def on_engine(name, small):
    options = {"n": 4, "max_tokens": 16}
    options |= {MODELS[name]: small.session()} if name in MODELS else {}
    return options | ({"reserve": 5} if name == "budget-forcing" else {"steps": "tokens:4"})


async def num_leased(model):
    for _ in range(3):
        model.thread.call(lambda: None)
        await asyncio.sleep(0)
    return model.thread.call(lambda: model.engine.cache.num_leased(model.engine.scheduler.leases()))


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [None, Budget(tokens=60)])
async def test_cancelling_at_any_await_leaves_nothing_open(name, budget, handed_out):
    turns, alive = 0, True
    while alive:
        alive = await cancelled_after(turns, run(name, WORLD.lm(budget), n=5))
        assert all(branch.closed for branch in handed_out), f"open after {turns} turns"
        assert len(asyncio.all_tasks()) == 1, "a task was left behind"
        turns += 1 + turns // 3
    assert turns > 10


async def test_a_strategy_that_leaks_is_caught(handed_out, monkeypatch):
    async def careless(self, *_):
        pass

    monkeypatch.setattr(Holding, "__aexit__", careless)
    for name in ("revise", "evolve", "speculative-steps"):
        left = False
        for turns in range(4, 40):
            await cancelled_after(turns, run(name, WORLD.lm()))
            left |= not all(branch.closed for branch in handed_out)
            handed_out.clear()
        assert left, name


@pytest.mark.parametrize("name", NAMES)
async def test_cancelling_on_the_engine_gives_all_pages_back(name, make_tiny_model):
    model, small = make_tiny_model(), make_tiny_model()
    for turns in (2, 15):
        await cancelled_after(turns, think(asked(), model.session(), name, None, **on_engine(name, small)))
        assert len(asyncio.all_tasks()) == 1
    assert await num_leased(model) == await num_leased(small) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "budget-forcing"])
async def test_an_error_of_the_verifier_is_the_user_s_and_leaves_nothing_open(name, handed_out):
    class Broken(Scores):
        async def score(self, question, branches, ledger):
            if len(self.asked) > 1:
                raise UserError("no more")
            return await super().score(question, branches, ledger)

    with pytest.raises(UserError, match="no more"):
        await run(name, WORLD.lm(), Broken(random_score(5)), n=24)
    assert all(branch.closed for branch in handed_out)
    assert len(asyncio.all_tasks()) == 1


# ---- seeds ----------------------------------------------------------------------------------------------------------


class Unsteady(Scores):
    """A verifier that takes its time, at each pace more for other lines."""

    def __init__(self, score, pace):
        super().__init__(score)
        self.pace = pace

    async def score(self, question, branches, ledger):
        for _ in range(self.pace * sum(map(ord, "".join(branch.full_text for branch in branches))) % 23):
            await asyncio.sleep(0)
        return await super().score(question, branches, ledger)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [None, Budget(tokens=150)])
async def test_same_seed_same_result_at_any_pace(name, budget):
    results = [
        told(await run(name, WORLD.lm(budget, seed=3), Unsteady(random_score(5), pace), 12)) for pace in (0, 1, 3)
    ]
    assert all(result == results[0] for result in results)
    others = [told(await run(name, WORLD.lm(budget, seed=seed), n=12)) for seed in (4, 5, 6)]
    assert any(other != results[0] for other in others), "three other seeds gave the same"


@pytest.mark.parametrize("name", NAMES)
async def test_same_seed_same_result_beside_other_work(name, make_tiny_model):
    model, small = make_tiny_model(), make_tiny_model()

    async def once():
        lm = model.session(Ledger(Budget(tokens=120)), Sampling(seed=5))
        return await think(asked(), lm, name, None, **on_engine(name, small))

    # The prompt is in the cache of both models for both, so that both have the same to spend.
    for each in (model, small):
        await think(asked(), each.session(), "greedy", max_tokens=2)
    alone = await once()
    noise = [
        think(Question(f"other {i}", lambda text: None), each.session(), "majority-vote", n=5, max_tokens=12)
        for i, each in enumerate((model, small, model))
    ]
    beside, *_ = await asyncio.gather(once(), *noise)
    assert told(alone) == told(beside)


# ---- what a strategy says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
async def test_without_its_second_model_a_strategy_says_so_before_anything_is_spent(name):
    lm = WORLD.lm()
    with pytest.raises(CapabilityError, match=f"-o {MODELS[name]}="):
        await think(WORLD.question, lm, name, judge())
    assert lm.ledger.bill.tokens == 0
    assert STRATEGIES.get(name).models == (MODELS[name],)


@pytest.mark.parametrize("name", ["revise", "evolve", "two-models"])
async def test_an_accepted_line_ends_the_work(name):
    right = Scores(lambda path: 0.0 if len(path) == 3 and path[0] == "b" else math.log(0.3), accept=0.0)
    posterior = await run(name, WORLD.lm(), right, n=64)
    assert posterior.stopped == "verified"
    assert all(candidate.answer.startswith("b") for candidate in posterior.candidates)


@pytest.mark.parametrize("name", ["revise", "evolve", "two-models"])
async def test_where_everything_is_ruled_out_there_is_still_a_line(name):
    posterior = await run(name, WORLD.lm(), Scores(lambda path: -math.inf))
    assert posterior.best in WORLD.leaves()
    assert posterior.stopped == "no line passed the verifier"


@pytest.mark.parametrize("name", ["revise", "evolve", "two-models"])
async def test_the_exact_checker_will_do(name):
    question = Question(PROMPT, WORLD.parse, lambda answer: answer[-1] == "c")
    posterior = await think(question, WORLD.lm(seed=1), name, "exact", **options_for(name, 64))
    assert posterior.best.endswith("c")
    assert posterior.stopped == "verified"


@pytest.mark.parametrize("name", NAMES)
async def test_what_was_done_is_noted_in_the_tree(name):
    lm = WORLD.lm()
    posterior = await run(name, lm)
    assert posterior.best_line.thought.fate == "chosen"
    assert posterior.best_line.text == "".join(t.text for t in posterior.best_line.thought.line())


@pytest.mark.parametrize("name", NAMES)
async def test_they_combine(name):
    lm = WORLD.lm(Budget(tokens=300))
    member = bind(STRATEGIES.get(name), **options_for(name, 4))
    deep = then(ensemble(member, member), STRATEGIES.get("majority-vote"), below=0.9)
    posterior = await think(WORLD.question, lm, deep, judge())
    assert posterior.best is not None
    assert lm.ledger.bill.tokens <= 300


async def test_mistakes_are_user_errors_before_anything_is_spent():
    for name, options in (
        ("revise", {"width": 0}),
        ("evolve", {"population": 0}),
        ("evolve", {"temperature": -1.0}),
        ("budget-forcing", {"least": -1}),
        ("budget-forcing", {"least": 9, "most": 5}),
        ("budget-forcing", {"wait": ""}),
        ("speculative-steps", {"accept": -0.1}),
        ("two-models", {"price": 0.0}),
    ):
        lm = WORLD.lm()
        with pytest.raises(UserError, match=next(iter(options))):
            await think(WORLD.question, lm, name, judge(), **(options_for(name) | options))
        assert lm.ledger.bill.tokens == 0
    tokens = Question([0], WORLD.parse)
    for name, options in IN_WORDS.items():
        with pytest.raises(CapabilityError, match="token ids"):
            await think(tokens, WORLD.lm(), name, judge(), **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_states_what_it_promises(name):
    found = STRATEGIES.get(name)
    assert (found.name, found.family) == (name, "sequential")
    assert found.summary and found.promise and found.paper and found.run.__doc__


@pytest.mark.parametrize("name", MODELS)
async def test_models_that_cannot_go_on_from_given_text_are_refused(name):
    """Either of the two: a server that knows only whole lines."""

    class Whole(ToyLM):
        offers = frozenset({"log_probs"})

        def with_ledger(self, ledger):
            return Whole(self.law, self.alphabet, ledger, self.sampling, self.context, self.tree)

    for lm, other in ((WORLD.lm(), Whole(OTHER.law, OTHER.alphabet)), (Whole(WORLD.law, WORLD.alphabet), OTHER.lm())):
        with pytest.raises(CapabilityError, match="partly written"):
            await think(WORLD.question, lm, name, judge(), **{MODELS[name]: other})
        assert lm.ledger.bill.tokens == 0
