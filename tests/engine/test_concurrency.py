"""Many users of one engine thread: what one of them does, or suffers, costs the others nothing."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engine.fakes import VOCAB_SIZE, FakeVocabulary, HashBackend, expected_child
from engine.world import make_engine
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BranchClosedError, EngineError, PromptError, SamplingError
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.thread import EngineThread
from outthink.lm.local import LocalBranch, LocalLM
from outthink.scheduling import Limits

LONG = Until(150, ignore_eos=True)
PROMPT = [0, 1, 2, 3, 4]


class Gate(HashBackend):
    """Waits before each step until it is let through."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        super().__init__(num_pages, page_size)
        self.open = threading.Event()

    def run(self, batch):
        assert self.open.wait(30)
        return super().run(batch)


def start(backend: HashBackend | None = None, **limits: int) -> EngineThread:
    backend = backend or HashBackend(200, 4)
    return EngineThread(make_engine(backend.num_pages, backend.page_size, Limits(**limits), backend=backend))


def session(thread: EngineThread, budget: Budget | None = None, seed: int = 0) -> LocalLM:
    return LocalLM(thread, FakeVocabulary(), Ledger(budget), Sampling(seed=seed))  # type: ignore[arg-type]


@pytest.fixture
def thread() -> Iterator[EngineThread]:
    thread = start()
    yield thread
    thread.close()


def num_leased(thread: EngineThread) -> object:
    engine = thread.engine
    thread.call(engine.check_integrity)
    return thread.call(lambda: engine.cache.num_leased(engine.scheduler.leases()))


class Hold:
    """An `on_token` that stops the engine in the middle of a step once ``after`` tokens were shown, until released."""

    def __init__(self, after: int = 30) -> None:
        self.left, self.free = after, threading.Event()
        self.reached = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, _index: int, _text: str) -> None:
        self.left -= 1
        if not self.left:
            self.loop.call_soon_threadsafe(self.reached.set)
            assert self.free.wait(30)


async def growing(root: LocalBranch, n: int = 4) -> tuple[asyncio.Task, Hold]:
    """An extension of ``root`` that is in flight, and what holds the engine there."""
    hold = Hold()
    task = asyncio.ensure_future(root.extend(n, LONG, on_token=hold))
    await asyncio.wait_for(hold.reached.wait(), 30)
    return task, hold


async def use(lm: LocalLM, user: int) -> list[tuple[int, ...]]:
    """A small search: grow, look, grow the best, close the others."""
    grown = []
    root = await lm.root([*PROMPT, user % VOCAB_SIZE])
    for _ in range(2):
        children = await root.extend(3, Until(12, ignore_eos=True))
        grown += [tuple(child.tokens) for child in children]
        best = max(children, key=lambda child: sum(child.log_probs))
        assert np.allclose(await root.score(best.tokens), best.log_probs, atol=1e-6)
        fed = await best.feed([1, 2])
        for branch in (*(c for c in children if c is not best), root, best):
            await branch.close()
        root = fed
    await root.close()
    return grown


async def test_users_of_one_loop_get_what_they_would_get_alone(thread: EngineThread) -> None:
    alone = [await use(session(thread, seed=user), user) for user in range(8)]
    together = await asyncio.gather(*(use(session(thread, seed=user), user) for user in range(8)))
    assert together == alone
    assert len({line for user in alone for line in user}) == 8 * 6
    assert num_leased(thread) == 0


@pytest.mark.parametrize("num_pages", [200, 14])
def test_users_of_many_loops_get_what_they_would_get_alone(num_pages: int) -> None:
    thread = start(HashBackend(num_pages, 4), max_batch_tokens=16)
    alone = [asyncio.run(use(session(thread, seed=user), user)) for user in range(6)]
    results: dict[int, list] = {}

    def work(user: int) -> None:
        results[user] = [asyncio.run(use(session(thread, seed=user), user)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(user,)) for user in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert results == {user: [alone[user]] * 3 for user in range(6)}
    assert num_leased(thread) == 0
    thread.close()


async def test_cancelling_an_extension_frees_what_it_grew(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    await (await root.extend(1, Until(1)))[0].close()
    at_rest = num_leased(thread)
    task, hold = await growing(root)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.free.set()
    assert num_leased(thread) == at_rest
    [child] = await root.extend(1, Until(3, ignore_eos=True))  # its fifth: the cancelled four were asked for
    key = mix(mix(0, 0), 5)
    assert child.tokens == expected_child(PROMPT, key, Until(3, ignore_eos=True), Sampling(), 5, 999).tokens
    assert not thread.engine._tasks


async def test_a_result_that_comes_as_the_wait_is_cancelled_gives_its_pages_back(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    task = asyncio.ensure_future(root.extend(4, Until(9, ignore_eos=True)))
    await asyncio.sleep(0)
    while thread.call(lambda: len(thread.engine._tasks)) or not thread.engine.stats.drawn:
        pass  # this loop does not run meanwhile, so the result waits to be delivered
    asyncio.get_running_loop().call_soon(task.cancel)  # after the delivery, before the coroutine wakes
    with pytest.raises(asyncio.CancelledError):
        await task
    await root.close()
    assert num_leased(thread) == 0


@pytest.mark.parametrize("verb", ["root", "feed"])
@pytest.mark.parametrize("late", [False, True])
async def test_a_cancelled_root_or_feed_leaves_no_handle(thread: EngineThread, verb: str, late: bool) -> None:
    lm = session(thread)
    root = await lm.root(PROMPT)
    await (await root.extend(1, Until(1)))[0].close()
    task = asyncio.ensure_future(lm.root([5, 6, 7]) if verb == "root" else root.feed([1, 2]))
    await asyncio.sleep(0)
    if late:
        thread.call(lambda: None)
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await root.close()
    thread.call(lambda: None)  # what was asked for has been made and sent
    await asyncio.sleep(0)  # and finds nobody
    assert num_leased(thread) == 0
    assert not thread.engine._roots
    assert not thread.engine.scheduler.resting


async def test_closing_a_branch_that_grows_tells_whoever_waits(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    task, hold = await growing(root)
    waits = [task, asyncio.ensure_future(root.extend(2, LONG)), asyncio.ensure_future(root.score([1] * 90))]
    await asyncio.sleep(0)
    await root.close()
    hold.free.set()
    for wait in waits:
        with pytest.raises(BranchClosedError):
            await asyncio.wait_for(wait, 30)
    assert num_leased(thread) == 0
    with pytest.raises(BranchClosedError):
        await root.extend()


async def test_closing_one_handle_of_a_shared_prompt_leaves_the_other(thread: EngineThread) -> None:
    one, two = [await session(thread).root(PROMPT) for _ in range(2)]
    task, hold = await growing(two)
    await one.close()
    hold.free.set()
    children = await asyncio.wait_for(task, 30)
    assert [len(child.tokens) for child in children] == [150] * 4
    for branch in (*children, two):
        await branch.close()
    assert num_leased(thread) == 0


def test_a_loop_that_is_gone_costs_the_others_nothing() -> None:
    backend = Gate(200, 4)
    thread = start(backend)
    lost = session(thread)

    async def leave() -> None:
        loop = asyncio.get_running_loop()
        root = await lost.root(PROMPT)
        for wait in (root.extend(4, Until(5, ignore_eos=True)), root.score([1, 2]), lost.root([9, 9])):
            task = loop.create_task(wait)
            await asyncio.sleep(0)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  it is abandoned on purpose

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    backend.open.set()
    assert len(asyncio.run(asyncio.wait_for(use(session(thread), 3), 30))) == 6
    assert thread.call(lambda: thread.engine.scheduler.running) == []
    assert {tuple(s.tokens) for s in thread.engine.scheduler.resting} == {tuple(PROMPT)}, "what else is held?"
    thread.close()


async def test_an_engine_that_breaks_tells_everybody() -> None:
    backend = HashBackend(200, 4)
    backend.break_at_step = 25
    thread = start(backend)
    users = [session(thread, seed=i) for i in range(5)]
    roots = [await lm.root([*PROMPT, i]) for i, lm in enumerate(users)]
    waits = [root.extend(3, LONG) for root in roots] + [roots[0].score([1] * 80)]
    results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 30)
    errors = [result for result in results if isinstance(result, EngineError)]
    assert len(errors) >= 5, "only the score may have been done by then"
    assert "the device fell off" in str(errors[0])
    assert isinstance(errors[0].__cause__, RuntimeError)
    for use_again in (roots[1].extend(1), roots[1].score([1]), roots[2].feed([1]), session(thread).root(PROMPT)):
        with pytest.raises(EngineError, match="fell off"):
            await asyncio.wait_for(use_again, 30)
    for branch in roots:
        await branch.close()
    assert num_leased(thread) == 0
    thread.close()


async def test_closing_the_engine_ends_every_wait_and_refuses_more() -> None:
    backend = Gate(200, 4)
    thread = start(backend)
    root = await session(thread).root(PROMPT)
    waits = [asyncio.ensure_future(root.extend(2, LONG)), asyncio.ensure_future(root.score([1, 2, 3]))]
    await asyncio.sleep(0)
    closer = threading.Thread(target=thread.close)
    closer.start()
    while not thread._closing:
        await asyncio.sleep(0.001)
    backend.open.set()
    await asyncio.to_thread(closer.join, 30)
    for wait in waits:
        with pytest.raises(EngineError, match="closed"):
            await asyncio.wait_for(wait, 30)
    for use_again in (root.extend(1), root.score([1]), root.feed([1]), session(thread).root(PROMPT)):
        with pytest.raises(EngineError, match=r"closed.*load it again"):
            await asyncio.wait_for(use_again, 30)
    await root.close()
    thread.close()
    assert thread.call(lambda: 7) == 7
    assert num_leased(thread) == 0


async def test_requests_that_race_with_the_closing_all_end() -> None:
    for _ in range(10):
        thread = start()
        root = await session(thread).root(PROMPT)
        closer = threading.Thread(target=thread.close)
        waits = [asyncio.ensure_future(root.extend(1, LONG)) for _ in range(3)]
        await asyncio.sleep(0)
        closer.start()
        waits += [asyncio.ensure_future(root.extend(1, LONG)) for _ in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 30)
        assert all(isinstance(result, list | EngineError) for result in results)
        closer.join(30)


async def test_two_engines_in_one_process() -> None:
    backends = [HashBackend(100, 4), HashBackend(100, 16)]
    threads = [start(backend) for backend in backends]
    backends[0].break_at_step = 12
    roots = [await session(thread).root(PROMPT) for thread in threads]
    broken, whole = await asyncio.gather(*(root.extend(4, LONG) for root in roots), return_exceptions=True)
    assert isinstance(broken, EngineError)
    expected = [expected_child(PROMPT, mix(mix(0, 0), i), LONG, Sampling(), 5, 999).tokens for i in range(4)]
    assert not isinstance(whole, BaseException)
    assert [child.tokens for child in whole] == expected
    for thread in threads:
        thread.close()


async def test_a_callback_that_raises_ends_its_own_request_alone(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    seen = []

    def raises(_index: int, text: str) -> None:
        seen.append(text)
        if len(seen) == 5:
            raise ValueError("the pipe is closed")

    other = asyncio.ensure_future(root.extend(2, Until(40, ignore_eos=True)))
    with pytest.raises(ValueError, match="pipe is closed"):
        await asyncio.wait_for(root.extend(2, LONG, on_token=raises), 30)
    children = await asyncio.wait_for(other, 30)
    assert [len(child.tokens) for child in children] == [40, 40]
    for branch in (*children, root):
        await branch.close()
    assert num_leased(thread) == 0


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda lm, root: lm.root([]), PromptError),
        (lambda lm, root: lm.root([0, VOCAB_SIZE]), PromptError),
        (lambda lm, root: lm.root([0, -1]), PromptError),
        (lambda lm, root: lm.root([0] * 796), PromptError),
        (lambda lm, root: root.feed([VOCAB_SIZE]), PromptError),
        (lambda lm, root: root.feed([0] * 900), PromptError),
        (lambda lm, root: root.score([0, 99]), PromptError),
        (lambda lm, root: root.score([0] * 900), PromptError),
        (lambda lm, root: root.extend(1, Until(stop=("\ud800",))), SamplingError),
        (lambda lm, root: root.extend(1, Until(stop=(5,))), SamplingError),
        (lambda lm, root: root.extend(1, Until(max_tokens=2.5)), SamplingError),
        (lambda lm, root: root.extend(1, Until(stop_tokens=("a",))), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(logit_bias={VOCAB_SIZE: 1.0})), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(logit_bias={1: float("inf")})), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(logit_bias=dict.fromkeys(range(12), -np.inf))), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(seed=1.5)), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(top_k=2.5)), SamplingError),
        (lambda lm, root: root.extend(1, None, Sampling(top_logprobs=1.5)), SamplingError),
    ],
)
async def test_bad_input_is_refused_and_costs_nobody_anything(thread: EngineThread, bad, error) -> None:
    lm = session(thread)
    root = await lm.root(PROMPT)
    task, hold = await growing(root, n=1)
    with pytest.raises(error):
        await asyncio.wait_for(bad(lm, root), 30)
    hold.free.set()
    [child] = await asyncio.wait_for(task, 30)
    assert len(child.tokens) == 150
    [second] = await root.extend(1, Until(3, ignore_eos=True))
    expected = expected_child(PROMPT, mix(mix(0, 0), 1), Until(3, ignore_eos=True), Sampling(), 5, 999)
    assert second.tokens == expected.tokens, "a refused request takes no child's place"


async def test_seeds_of_any_whole_type(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    tokens = set()
    for seed in (2**63 - 1, np.int64(2**63 - 1), np.uint64(2**63 - 1)):
        other = await session(thread).root(PROMPT)
        [child] = await other.extend(1, Until(20, ignore_eos=True), Sampling(seed=seed))
        tokens.add(child.tokens)
    assert len(tokens) == 1
    [negative] = await root.extend(1, Until(20, ignore_eos=True), Sampling(seed=-7))
    assert negative.tokens not in tokens


async def test_a_command_that_raises_does_so_where_it_was_called(thread: EngineThread) -> None:
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    root = await session(thread).root(PROMPT)
    assert len(await root.extend(2, Until(3))) == 2


async def test_branches_say_what_they_are(thread: EngineThread) -> None:
    lm = session(thread)
    shown = ["", "", ""]

    def on_token(index: int, text: str) -> None:
        shown[index] += text

    root = await lm.root(PROMPT)
    children = await root.extend(3, Until(30, stop=("b",)), Sampling(seed=4, top_logprobs=3), on_token)
    for i, child in enumerate(children):
        expected = expected_child(PROMPT, mix(mix(0, 0), i), Until(30, stop=("b",)), Sampling(seed=4), 5, 999)
        assert (child.tokens, child.finish, child.text) == (expected.tokens, expected.finish, expected.text)
        assert child.completion == expected.completion
        assert shown[i] == child.text
        assert child.ended == (child.tokens[-1] in FakeVocabulary.eos_ids)
        assert np.allclose(child.log_probs, expected.log_probs, atol=1e-9)
        assert len(child.top_log_probs) == len(child.tokens)
        for top, token, log_prob in zip(child.top_log_probs, child.tokens, child.log_probs, strict=True):
            assert [x for _, x in top] == sorted((x for _, x in top), reverse=True)
            assert len(top) == 3
            assert dict(top).get(token, log_prob) == log_prob
            assert token in dict(top) or log_prob <= top[-1][1]
        assert child.thought.text == child.text
        assert child.thought.log_prob == pytest.approx(sum(child.log_probs))
        assert child.full_text == child.text
    [grandchild] = await children[0].extend(1, Until(4, ignore_eos=True))
    assert grandchild.full_text == children[0].text + grandchild.text
    assert [t.text for t in grandchild.thought.line()] == ["", "", children[0].text, grandchild.text]
    assert await root.extend(0) == []
    assert await root.score([]) == []


async def test_penalties_count_from_the_prompt_on_through_all_ancestors(thread: EngineThread) -> None:
    root = await session(thread).root(PROMPT)
    sampling = Sampling(seed=2, repetition_penalty=1.5, frequency_penalty=0.7, presence_penalty=0.2)
    whole = expected_child(PROMPT, mix(mix(0, 0), 0), Until(9, ignore_eos=True), sampling, 5, 999)
    [child] = await root.extend(1, Until(9, ignore_eos=True), sampling)
    assert child.tokens == whole.tokens
    fed = await child.feed([1, 1, 1])
    [grandchild] = await fed.extend(1, Until(9, ignore_eos=True), sampling)
    prefix = [*PROMPT, *child.tokens, 1, 1, 1]
    expected = expected_child(prefix, mix(fed.key, 0), Until(9, ignore_eos=True), sampling, 5, 999)
    assert grandchild.tokens == expected.tokens
