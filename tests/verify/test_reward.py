"""Reward models beside a policy: what they say, by a dense oracle, and what they compute, keep and cost."""

import asyncio
import math
import random
import threading

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import EngineError, PromptError, UnknownNameError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.branch import BaseBranch
from outthink.lm.joint import JointLM
from outthink.lm.local import LONG_PROMPT
from outthink.lm.toy import ToyLM, random_law
from outthink.reason.solve import think
from outthink.verify.compose import Staged, for_steps
from outthink.verify.odds import EVEN, log_sigmoid
from outthink.verify.reward import AGGREGATES, OutcomeReward, ProcessReward
from reward_world import LONG, PROMPT, STEP, OtherTokenizer, expected, grow, leased, line_tokens, make_reward

QUESTION = Question(PROMPT, lambda text: None)


@pytest.fixture
def reward(tiny_model):
    return make_reward(tiny_model.thread, tiny_model.loaded.tokenizer)


async def close(branches):
    for branch in branches:
        await branch.close()


def distinct(reward, branches):
    """How many positions the tree of these branches has, the prompt's included."""
    prompt, tree = tuple(reward.check(PROMPT)), set()
    for branch in branches:
        line = (*prompt, *line_tokens(reward, branch))
        tree |= {line[: end + 1] for end in range(len(line))}
    return len(tree | {prompt[: end + 1] for end in range(len(prompt))})


def check_computed_once(reward, branches, bill):
    """Raise AssertionError unless every position of the tree was computed once, or found in the cache, and billed."""
    stats = reward.engine.stats
    assert stats.recomputed == 0
    assert stats.positions == bill.prefilled == bill.verifier_tokens
    assert stats.positions <= distinct(reward, branches), "a position was computed twice"
    unique = {tuple(line_tokens(reward, branch)) for branch in branches}
    if len(unique) == len(branches):
        assert stats.positions + bill.cached == distinct(reward, branches)


@pytest.mark.parametrize("order", ["together", "one by one", "leaves first", "in pairs"])
async def test_a_tree_is_read_as_the_dense_oracle_says_each_position_once(tiny_model, reward, order):
    root, branches = await grow(tiny_model, seed=1)
    paying, asked = Ledger(), list(branches)
    if order == "together":
        found = await reward.read(PROMPT, asked, paying)
    elif order == "in pairs":
        random.Random(0).shuffle(asked)
        parts = await asyncio.gather(*(reward.read(PROMPT, asked[i : i + 2], paying) for i in range(0, len(asked), 2)))
        found = [line for part in parts for line in part]
    else:
        asked = asked if order == "one by one" else asked[::-1]
        found = [(await reward.read(PROMPT, [branch], paying))[0] for branch in asked]
    for branch, logits in zip(asked, found, strict=True):
        assert logits == pytest.approx(expected(reward, branch), abs=2e-4)
    assert max(map(len, found)) > 1, "no line has several steps"
    check_computed_once(reward, branches, paying.bill)
    assert paying.bill.verifier_flops == paying.bill.flops > 0
    again = Ledger()
    assert await reward.read(PROMPT, asked, again) == found
    assert again.bill.tokens == 0, "what was read is not read again"
    await close([*branches, root])
    assert leased(reward) == 0


async def test_what_is_computed_twice_is_noticed(tiny_model, reward, monkeypatch):
    monkeypatch.setattr("outthink.lm.reward._base", lambda twin, pin: pin)
    root, branches = await grow(tiny_model, seed=1)
    paying = Ledger()
    await reward.read(PROMPT, branches, paying)
    with pytest.raises(AssertionError, match="twice"):
        check_computed_once(reward, branches, paying.bill)
    await close([*branches, root])


async def test_parents_may_close_before_their_children_are_judged(tiny_model, reward):
    lm = tiny_model.session(sampling=Sampling(seed=4))
    root = await lm.root(PROMPT)
    layer, everyone, paying = [root], [], Ledger()
    for _ in range(4):
        children = [child for branch in layer for child in await branch.extend(2, Until(5, ignore_eos=True))]
        await close(layer)
        await reward.read(PROMPT, children, paying)
        layer = children[:3]
        everyone += children
        await close(children[3:])
    check_computed_once(reward, everyone, paying.bill)
    await close(layer)
    assert leased(reward) == 0


async def test_pages_are_free_once_the_policy_lets_go_and_a_leak_is_noticed(tiny_model, reward, monkeypatch):
    root, branches = await grow(tiny_model, seed=2)
    await reward.read(PROMPT, branches, Ledger())
    held = leased(reward)
    assert held >= len(branches)
    await close(branches[: len(branches) // 2])
    await close(branches[len(branches) // 2 :])
    await root.close()
    assert leased(reward) == 0 < held
    monkeypatch.setattr(BaseBranch, "when_released", lambda self, action: None)
    root, branches = await grow(tiny_model, seed=3)
    await reward.read(PROMPT, branches, Ledger())
    await close([*branches, root])
    assert leased(reward) > 0, "the check finds no leak where there is one"


async def test_all_that_is_judged_at_one_time_is_one_step(tiny_model, reward, monkeypatch):
    root, branches = await grow(tiny_model, seed=5, widths=(8,))
    first, *others = branches
    await reward.read(PROMPT, [first], Ledger())
    engine, step, steps, complete = reward.engine, reward.engine.step, reward.engine.stats.steps, threading.Event()

    def step_once_all_have_asked():
        engine.step_inbox()
        if len(engine._tasks) == len(others):
            complete.set()
        return step() if complete.is_set() else True

    monkeypatch.setattr(engine, "step", step_once_all_have_asked)
    await asyncio.gather(*(reward.read(PROMPT, [each], Ledger()) for each in others))
    assert engine.stats.steps - steps == 1, "judgements were computed one after the other"
    await close([*branches, root])


async def test_two_who_ask_about_one_branch_pay_once(tiny_model, reward):
    root, [branch] = await grow(tiny_model, seed=6, widths=(1,))
    a, b = Ledger(), Ledger()
    one, two = await asyncio.gather(reward.read(PROMPT, [branch], a), reward.read(PROMPT, [branch, branch], b))
    assert [*one, one[0]] == [*two, two[0]][:2] and two[0] == two[1]
    assert a.bill.tokens + b.bill.tokens == distinct(reward, [branch])
    await close([branch, root])
    assert leased(reward) == 0


async def test_cancelling_one_leaves_the_others_alone_and_no_page_behind(tiny_model, reward):
    for seed in range(0, 8, 2):
        root, branches = await grow(tiny_model, seed=seed, widths=(3, 2))
        tasks = [asyncio.ensure_future(reward.read(PROMPT, [branch], Ledger())) for branch in branches]
        for _ in range(seed):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, (branch, result) in enumerate(zip(branches, results, strict=True)):
            if i % 3 and not isinstance(result, BaseException):
                assert result[0] == pytest.approx(expected(reward, branch), abs=2e-4)
            assert i % 3 == 0 or not isinstance(result, BaseException)
        await close([*branches, root])
        assert leased(reward) == 0


async def test_a_judgement_does_not_depend_on_what_else_goes_on(make_tiny_model):
    alone, crowded = make_tiny_model(), make_tiny_model()
    found = []
    for model in (alone, crowded):
        judge = make_reward(model.thread, model.loaded.tokenizer, pages=40, max_batch_tokens=13 if found else 512)
        root, branches = await grow(model, seed=7)
        noise_root, noise = await grow(model, seed=8, widths=(4, 3))
        reads = [judge.read(PROMPT, branches, Ledger())]
        if found:
            reads += [judge.read(PROMPT, [each], Ledger()) for each in noise]
            reads.append(noise_root.extend(6, Until(30)))
        results = await asyncio.gather(*reads)
        found.append(results[0])
        await close([*branches, *noise, root, *(results[-1] if len(found) == 2 else ()), noise_root])
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(2))
async def test_another_tokenizer_reads_the_text(tiny_model, seed):
    judge = make_reward(tiny_model.thread, OtherTokenizer())
    root, branches = await grow(tiny_model, seed=seed)
    fed = await branches[0].feed("llow\n\nbb")
    ends = [await branch.feed(branch.text[-1]) for branch in branches if branch.text]
    asked = [*branches, fed, *ends]
    for branch, logits in zip(asked, await judge.read(PROMPT, asked, Ledger()), strict=True):
        assert logits == pytest.approx(expected(judge, branch), abs=2e-4)
    await close([*asked, root])
    assert leased(judge) == 0


async def test_joint_models_by_their_tokens_and_toys_by_their_text(tiny_model, reward):
    lm = JointLM(tiny_model.session(), tiny_model.session())
    root = await lm.root(PROMPT)
    [first] = await root.extend(1, STEP)
    [second] = await first.by(1).extend(1, STEP)
    [logits] = await reward.read(PROMPT, [second], Ledger())
    assert logits == pytest.approx(expected(reward, second), abs=2e-4)
    await close([second, first, root])
    assert leased(reward) == 0
    toy_root = await ToyLM(random_law(0, 4), "ab\n").root("a")
    lines = await toy_root.extend(4, Until(8))
    judge = make_reward(tiny_model.thread, OtherTokenizer())
    for line, logits in zip(lines, await judge.read(PROMPT, lines, Ledger()), strict=True):
        assert logits == pytest.approx(expected(judge, line), abs=2e-4)
    await close([*lines, toy_root])
    assert leased(judge) == 0


# ---- budgets ---------------------------------------------------------------------------------------------------------


async def test_every_budget_is_kept_and_what_it_does_not_buy_is_not_known(tiny_model):
    whole, num_known = None, []
    for tokens in (None, *range(0, 130, 13)):
        judge = make_reward(tiny_model.thread, tiny_model.loaded.tokenizer)
        root, branches = await grow(tiny_model, seed=1, widths=(3, 2))
        paying = Ledger(None if tokens is None else Budget(tokens=tokens))
        found = await judge.read(PROMPT, branches, paying)
        whole = found if whole is None else whole
        assert tokens is None or paying.bill.tokens <= tokens
        place = {branch: i for i, branch in enumerate(branches)}
        for branch, logits in zip(branches, found, strict=True):
            line = [branch, branch.parent]
            assert logits in [[], *(whole[place[each]] for each in line if each in place)], "a made-up reading"
        num_known.append(sum(logits == all_of for logits, all_of in zip(found, whole, strict=True)))
        score = await ProcessReward(judge).score(QUESTION, branches, Ledger(Budget(tokens=0)))
        assert all(value == EVEN for value, logits in zip(score, found, strict=True) if not logits)
        await close([*branches, root])
        assert leased(judge) == 0
    assert num_known[0] == len(branches) and num_known[1] == 0 and num_known[-1] == len(branches)
    assert len(set(num_known)) > 2


async def test_a_line_that_outgrows_the_context_is_read_as_far_as_it_fits(tiny_model, reward):
    root = await tiny_model.session().root(PROMPT)
    long = await root.feed("abc\n" * 100)
    more = await long.feed("d\n")
    prompt = reward.check(PROMPT)
    first, second = await reward.read(PROMPT, [long, more], Ledger())
    assert len(first) == (LONG - len(prompt)) // 4 and first == second
    await close([more, long, root])
    assert leased(reward) == 0
    with pytest.raises(PromptError, match="positions"):
        ProcessReward(reward).require(Question("x" * LONG, lambda text: None))


async def test_a_long_problem_is_read_off_the_event_loop(tiny_model, reward, monkeypatch):
    text, loops = "x" * LONG_PROMPT, []
    real = type(reward.tokenizer).encode

    def encode(tokenizer, read, *more, **named):
        loops.append(asyncio._get_running_loop())
        return real(tokenizer, read, *more, **named)

    monkeypatch.setattr(type(reward.tokenizer), "encode", encode)
    for work in (
        think(Question(text, lambda text: None), tiny_model.session(), "best-of-n", ProcessReward(reward)),
        reward.read(text, [], Ledger()),
    ):
        with pytest.raises(PromptError):
            await work
    assert len(loops) >= 2 and set(loops) == {None}


async def test_a_closed_model_says_so(make_tiny_model):
    model = make_tiny_model()
    judge = make_reward(model.thread, model.loaded.tokenizer)
    _, branches = await grow(model, widths=(2,))
    judge.close()
    with pytest.raises(EngineError, match="load it again"):
        await judge.read(PROMPT, branches, Ledger())


# ---- the verifiers ---------------------------------------------------------------------------------------------------


class Says:
    """A reward model that has read these logits of each line."""

    kind, name = "process", "says"

    def __init__(self, *lines, kind="process"):
        self.lines, self.kind = lines, kind

    async def read(self, prompt, branches, ledger):
        return [list(line) for line in self.lines]


async def test_aggregates_are_their_formulas():
    lines = [(0.3, -1.0, 2.0), (4.0,), (-60.0, 1.0), ()]
    p = [[1 / (1 + math.exp(-x)) for x in line] for line in lines[:-1]]
    truth = {
        "last": [ps[-1] for ps in p],
        "min": [min(ps) for ps in p],
        "product": [math.prod(ps) for ps in p],
        "mean": [sum(ps) / len(ps) for ps in p],
    }
    assert set(truth) == set(AGGREGATES)
    for name, values in truth.items():
        ledger = Ledger()
        got = await ProcessReward(Says(*lines), name).score(QUESTION, [None] * 4, ledger)
        assert got == pytest.approx([*map(math.log, values), EVEN], rel=1e-9)
        assert ledger.bill.verifier_calls == 4
    outcome = OutcomeReward(Says(*lines, kind="outcome"))
    assert await outcome.score(QUESTION, [None] * 4, Ledger()) == pytest.approx(
        [log_sigmoid(2.0), log_sigmoid(4.0), log_sigmoid(1.0), EVEN]
    )
    assert not outcome.accepts(0.0)
    assert math.exp(log_sigmoid(800.0)) == 1.0 and log_sigmoid(-800.0) == -800.0


def test_outcome_models_judge_only_finished_lines():
    process, outcome = ProcessReward(Says()), OutcomeReward(Says(kind="outcome"))
    assert for_steps(process) is process
    staged = for_steps(outcome)
    assert isinstance(staged, Staged) and staged.outcome is outcome


def test_mistakes_are_told():
    with pytest.raises(UnknownNameError, match="last, mean, min, product"):
        ProcessReward(Says(), "median")
    with pytest.raises(UserError, match="reward model of the outcome"):
        ProcessReward(Says(kind="outcome"))
    with pytest.raises(UserError, match="read once"):
        OutcomeReward(Says(kind="outcome"), "min")


async def test_no_branch_is_still_read_once_an_error_is_told(tiny_model, reward, monkeypatch):
    root, branches = await grow(tiny_model, widths=(2,))
    at_work = set()

    async def read(branch, pin, ledger):
        at_work.add(branch)
        try:
            await asyncio.sleep(0)
            if branch is branches[0]:
                raise EngineError("it broke")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            at_work.discard(branch)

    monkeypatch.setattr(reward, "_read", read)
    with pytest.raises(EngineError, match="it broke"):
        await reward.read(PROMPT, branches, Ledger())
    assert not at_work
    await close([root, *branches])
