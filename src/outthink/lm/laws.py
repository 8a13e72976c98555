"""The laws of the `LM` protocol: what a strategy may rely on, whoever implements it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BranchClosedError, PromptError, UserError
from outthink.core.question import Prompt
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import LM, Branch

MakeLM = Callable[[Ledger, Sampling], LM]


async def check_lm(
    make_lm: MakeLM,
    prompt: Prompt,
    *,
    max_tokens: int = 6,
    tolerance: float = 1e-4,
    laws: Iterable[Law] | None = None,
) -> None:
    """Raise AssertionError, naming the law, unless the implementation keeps all of ``laws`` (by default every one).

    ``make_lm`` makes a fresh `LM` on the given ledger and sampling; ``prompt`` must leave room for 8 x ``max_tokens``.
    ``tolerance`` bounds differences of log-probabilities (nats).
    """
    for law in LAWS if laws is None else laws:
        await law(_Case(make_lm, prompt, Until(max_tokens), tolerance))


class _Case:
    def __init__(self, make_lm: MakeLM, prompt: Prompt, until: Until, tolerance: float) -> None:
        self.make_lm, self.prompt, self.until, self.tolerance = make_lm, prompt, until, tolerance

    def lm(self, budget: Budget | None = None, **sampling: float) -> LM:
        return self.make_lm(Ledger(budget), Sampling(**{"seed": 11, **sampling}))  # type: ignore[arg-type]

    async def root(self, budget: Budget | None = None, **sampling: float) -> tuple[LM, Branch]:
        lm = self.lm(budget, **sampling)
        return lm, await lm.root(self.prompt)

    @property
    def endless(self) -> Until:
        """So many tokens that an extension is still at it when it is looked at again."""
        return Until(6 * (self.until.max_tokens or 1), ignore_eos=True)


Law = Callable[[_Case], Awaitable[None]]


async def prefixes_are_immutable(case: _Case) -> None:
    """Nothing that happens below a branch changes it."""
    _, root = await case.root()
    [child] = await root.extend(1, case.until)
    before = (tuple(child.tokens), child.text, tuple(child.log_probs), child.finish)
    grandchildren = await child.extend(3, case.until)
    await child.score(list(grandchildren[0].tokens) or [0])
    after = (tuple(child.tokens), child.text, tuple(child.log_probs), child.finish)
    assert before == after, f"extending or scoring a branch changed it: {before} became {after}"
    for grandchild in grandchildren:
        assert grandchild.parent is child, "a child's parent is not the branch that was extended"
        assert grandchild.full_text == child.full_text + grandchild.text, "a child does not begin with its parent"


async def extending_is_deterministic(case: _Case) -> None:
    """A branch's k-th child depends on seed and prefix alone, not on how or when it was asked for."""
    _, a = await case.root()
    together = [tuple(x.tokens) for x in await a.extend(4, case.until)]
    _, b = await case.root()
    singly = [tuple((await b.extend(1, case.until))[0].tokens) for _ in range(4)]
    _, c = await case.root()
    at_once = [tuple(x[0].tokens) for x in await asyncio.gather(*(c.extend(1, case.until) for _ in range(4)))]
    assert together == singly == at_once, f"the same seed gave {together}, then {singly}, then {at_once}"
    _, d = await case.root(seed=12)
    others = [tuple(x.tokens) for x in await d.extend(4, case.until)]
    assert others != together, "another seed gave the same four children"


async def scores_are_sums_of_log_probabilities(case: _Case) -> None:
    """Scoring what was sampled gives the log-probabilities that it was sampled with, token by token."""
    _, root = await case.root()
    for child in await root.extend(2, case.until):
        scored = await root.score(list(child.tokens))
        _close("score of a child's tokens", scored, child.log_probs, case)
        assert len(child.log_probs) == len(child.tokens), "a log-probability is missing"
        assert all(x <= 0 for x in child.log_probs), "a log-probability is positive"
        _close("sampling law at temperature 1", child.sample_log_probs, child.log_probs, case)
    _, root = await case.root(temperature=0.0)
    greedy, again = await root.extend(2, case.until)
    assert tuple(greedy.tokens) == tuple(again.tokens), "greedy children differ"
    assert all(x == 0 for x in greedy.sample_log_probs), "a greedy token was drawn with probability below 1"


async def fed_text_is_a_prefix_like_any_other(case: _Case) -> None:
    """Scoring a text in two parts, the first of them fed, gives the same as scoring it whole."""
    _, root = await case.root()
    [child] = await root.extend(1, Until(2, ignore_eos=True))
    [grandchild] = await child.extend(1, Until(2, ignore_eos=True))
    fed = await root.feed(list(child.tokens))
    assert tuple(fed.tokens) == tuple(child.tokens), "feeding changed the tokens"
    assert fed.finish is None, "a fed branch has a finish"
    _close("score after fed text", await fed.score(list(grandchild.tokens)), grandchild.log_probs, case)
    [grown] = await fed.extend(1, case.until)
    assert grown.full_text == fed.text + grown.text, "a child of fed text does not begin with it"


async def closed_branches_refuse_use(case: _Case) -> None:
    """A closed branch can be neither extended, scored nor fed; its children live on."""
    _, root = await case.root()
    [child] = await root.extend(1, Until(2, ignore_eos=True))
    await root.close()
    await root.close()
    for verb, use in (
        ("extend", lambda: root.extend(1, case.until)),
        ("score", lambda: root.score(list(child.tokens))),
        ("feed", lambda: root.feed(list(child.tokens))),
    ):
        try:
            await use()
        except BranchClosedError:
            continue
        raise AssertionError(f"a closed branch let itself {verb}")
    assert len(await child.extend(2, case.until)) == 2, "closing a parent took its child along"


async def budgets_are_charged_once(case: _Case) -> None:
    """The bill is the tree's: each prompt position once, each sampled token once."""
    lm, root = await case.root()
    children = await root.extend(3, case.until)
    prompt = lm.ledger.bill.prefilled + lm.ledger.bill.cached
    assert prompt > 0, "the prompt was not charged"
    grandchildren = [g for child in children if not child.ended for g in await child.extend(2, case.until)]
    bill, drawn = lm.ledger.bill, sum(len(b.tokens) for b in (*children, *grandchildren))
    assert bill.decoded == drawn, f"{drawn} tokens were drawn and {bill.decoded} charged"
    assert bill.prefilled + bill.cached == prompt, "the prompt was charged again"
    assert bill.flops > 0, "no FLOPs were charged"
    before = lm.ledger.bill.decoded
    await asyncio.gather(root.extend(1, case.until), root.extend(1, case.until))
    assert lm.ledger.bill.prefilled + lm.ledger.bill.cached == prompt, "extending again charged the prompt again"
    assert lm.ledger.bill.decoded > before, "tokens drawn later were not charged"


async def budgets_are_kept(case: _Case) -> None:
    """With any token budget nothing raises, no more is spent, and every child comes back."""
    lm, root = await case.root()
    await root.extend(3, case.until)
    for tokens in {0, 1, 2, *range(0, lm.ledger.bill.tokens + 2, 3)}:
        lm, root = await case.root(Budget(tokens=tokens))
        children = await root.extend(3, case.until)
        assert len(children) == 3, f"{len(children)} of 3 children came back under a budget of {tokens}"
        assert lm.ledger.bill.tokens <= tokens, f"{lm.ledger.bill.tokens} tokens were spent of {tokens}"
        if lm.ledger.exhausted and tokens < 2:
            assert all(child.finish == "budget" for child in children), "a child does not say that it was cut"
        await root.score([0])
        assert lm.ledger.bill.tokens <= tokens, "scoring overspent"
    lm, root = await case.root()
    lm.ledger.cancel()
    [child] = await root.extend(1, case.until)
    assert child.finish == "budget" and not child.tokens, "work went on after the ledger was cancelled"


async def until_is_kept(case: _Case) -> None:
    """Children stop where they were told to, and say why."""
    _, root = await case.root()
    for child in await root.extend(4, Until(3)):
        assert len(child.tokens) <= 3, "max_tokens was not kept"
        assert child.finish == ("length" if len(child.tokens) == 3 and not child.ended else "stop"), "a wrong finish"
    [child] = await root.extend(1, Until(4, ignore_eos=True))
    if child.text:
        stop = child.text[-1]
        [same] = await (await case.root())[1].extend(1, Until(4, stop=(stop,), ignore_eos=True))
        assert stop not in same.completion, "the completion holds its stop string"


async def cancelling_leaves_the_rest_alone(case: _Case) -> None:
    """A cancelled extension raises CancelledError; the branch and its other children go on."""
    _, root = await case.root()
    other = asyncio.create_task(root.extend(2, case.until))
    task = asyncio.create_task(root.extend(2, Until(case.until.max_tokens, ignore_eos=True)))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("a cancelled extension returned")
    assert len(await other) == 2, "cancelling one extension took another along"
    assert len(await root.extend(1, case.until)) == 1, "a branch was of no use after an extension was cancelled"


async def cancelling_stops_the_bill(case: _Case) -> None:
    """What was cancelled is charged for no more, and was charged for no more than was drawn."""
    lm, root = await case.root()
    task = asyncio.create_task(root.extend(2, case.endless))
    while not lm.ledger.bill.decoded and not task.done():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await root.extend(1, Until(1))  # by the time that this is back, the cancelling has been seen to
    before = lm.ledger.bill.tokens
    for _ in range(50):
        await asyncio.sleep(0.0005)
    assert lm.ledger.bill.tokens == before, "work went on, and was charged, after it was cancelled"


async def another_ledger_pays(case: _Case) -> None:
    """`with_ledger` changes who pays and nothing else; a slice's expenses are also its whole's."""
    lm = case.lm()
    expected = [tuple(x.tokens) for x in await (await lm.root(case.prompt)).extend(2, case.until)]
    before, part = lm.ledger.bill, lm.ledger.slice(Budget())
    other, sliced = lm.with_ledger(Ledger()), lm.with_ledger(part)
    assert other.sampling == lm.sampling and other.tree is lm.tree, "with_ledger changed sampling or tree"
    drawn = await (await other.root(case.prompt)).extend(2, case.until)
    assert [tuple(x.tokens) for x in drawn] == expected, "another ledger changed what was drawn"
    assert other.ledger.bill.decoded == sum(map(len, expected)), "the other ledger did not pay for what was drawn"
    assert lm.ledger.bill.tokens == before.tokens, "the first ledger paid for another's work"
    await (await sliced.root(case.prompt)).extend(1, case.until)
    assert 0 < part.bill.tokens == lm.ledger.bill.tokens - before.tokens, "a slice's expenses are not its whole's"
    changed = lm.with_sampling(Sampling(temperature=0.0))
    assert changed.ledger is lm.ledger and changed.tree is lm.tree, "with_sampling changed ledger or tree"
    assert changed.sampling == Sampling(temperature=0.0), "with_sampling did not change the sampling"
    lm.ledger.cancel()
    [child] = await (await sliced.root(case.prompt)).extend(1, case.until)
    assert child.finish == "budget" and not child.tokens, "a slice outlived its whole"


async def texts_are_shown_as_they_grow(case: _Case) -> None:
    """``on_token`` is called with every child's text, in order and whole, before `extend` returns."""
    for until in (case.until, Until(case.until.max_tokens, ignore_eos=True)):
        shown = ["", "", ""]

        def on_token(index: int, text: str, shown: list[str] = shown) -> None:
            shown[index] += text

        children = await (await case.root())[1].extend(3, until, on_token=on_token)
        texts = [child.text for child in children]
        assert shown == texts, f"{shown} was shown of {texts}"
    _, root = await case.root()

    def broken(index: int, text: str) -> None:
        raise KeyError(index)

    try:
        await root.extend(2, Until(case.until.max_tokens, ignore_eos=True), on_token=broken)
    except KeyError:
        assert len(await root.extend(1, case.until)) == 1, "an error of on_token made the branch useless"
        return
    raise AssertionError("an error of on_token was swallowed")


async def time_is_kept(case: _Case) -> None:
    """Once its seconds are over, a ledger pays for nothing more; what was drawn by then comes back."""
    now = [0.0]
    ledger = Ledger(Budget(seconds=10), clock=lambda: now[0])
    lm = case.make_lm(ledger, Sampling(seed=11))
    root = await lm.root(case.prompt)

    def on_token(index: int, text: str) -> None:
        now[0] += 6  # so that time is over after the second piece of text

    [child] = await root.extend(1, case.endless, on_token=on_token)
    assert child.finish == "budget", f"a child that ran out of time says {child.finish!r}"
    assert 0 < len(child.tokens) < (case.endless.max_tokens or 0), f"{len(child.tokens)} tokens came of a cut child"
    assert lm.ledger.bill.decoded >= len(child.tokens), "what was drawn in time was not charged"
    before = lm.ledger.bill
    [late] = await root.extend(1, case.until)
    assert late.finish == "budget" and not late.tokens, "work went on after time was over"
    assert lm.ledger.bill.tokens == before.tokens, "work was charged after time was over"


async def flops_are_kept(case: _Case) -> None:
    """With a budget in FLOPs work is cut in its midst, and nothing is spent once there is none left."""
    lm, root = await case.root()
    await root.extend(1, Until(1, ignore_eos=True))
    start = lm.ledger.bill.flops
    await root.extend(1, case.endless)
    whole = lm.ledger.bill.flops
    limit = start + (whole - start) / 2
    lm, root = await case.root(Budget(flops=limit))
    [child] = await root.extend(1, case.endless)
    assert child.finish == "budget", f"a child that ran out of FLOPs says {child.finish!r}"
    assert lm.ledger.bill.flops < whole, f"{lm.ledger.bill.flops} FLOPs were spent of {limit}"
    lm, root = await case.root(Budget(flops=0))
    [child] = await root.extend(1, case.until)
    assert child.finish == "budget" and not child.tokens, "work was done without a FLOP to spend"
    assert lm.ledger.bill.tokens == lm.ledger.bill.flops == 0, "work was charged without a FLOP to spend"


async def options_are_checked(case: _Case) -> None:
    """What cannot be asked for is refused with a UserError, before anything is spent; no children are no work."""
    lm, root = await case.root()
    assert await root.extend(0) == [], "no children were asked for, and some came"
    wrong = [
        (-1, Until(2), Sampling()),
        (1, Until(2, stop=("\ud800",)), Sampling()),
        (1, Until(2), Sampling(logit_bias={1 << 40: 1.0})),
        (1, Until(2), Sampling(logit_bias={0: math.inf})),
    ]
    for n, until, sampling in wrong:
        try:
            await root.extend(n, until, sampling)
        except UserError:
            continue
        raise AssertionError(f"n={n}, {until}, {sampling} was accepted")
    assert lm.ledger.bill.tokens == 0, "what was refused was charged"


async def empty_prompts_are_refused(case: _Case) -> None:
    """A prompt without tokens is a PromptError, before anything is spent."""
    lm = case.lm()
    try:
        await lm.root([])
    except PromptError:
        assert lm.ledger.bill.tokens == 0, "a refused prompt was charged"
        return
    raise AssertionError("an empty prompt was accepted")


def _close(what: str, got: object, expected: object, case: _Case) -> None:
    a, b = list(got), list(expected)  # type: ignore[call-overload]
    same = len(a) == len(b) and all(math.isclose(x, y, abs_tol=case.tolerance) for x, y in zip(a, b, strict=True))
    assert same, f"{what}: {a} differs from {b}"


async def asides_leave_no_trace(case: _Case) -> None:
    """What is asked of a branch aside is on another bill, in no tree, and changes none of the branch's children."""
    grown: list[list[tuple[int, ...]]] = []
    for ask in (False, True):
        lm, root = await case.root()
        [child] = await root.extend(1, case.until)
        before, size = lm.ledger.bill, len(list(lm.tree.walk()))
        if ask:
            apart = Ledger()
            fed = await (await root.aside(apart)).feed(list(child.tokens) or [0])
            await fed.score([0])
            await fed.close()
            assert apart.bill.tokens > 0, "what was asked aside was not charged where it should be"
        assert lm.ledger.bill.tokens == before.tokens, "what was asked aside was charged to the branch's own ledger"
        assert len(list(lm.tree.walk())) == size, "what was asked aside is in the recorded tree"
        grown.append([tuple(other.tokens) for other in await root.extend(3, case.until)])
    assert grown[0] == grown[1], f"children are {grown[1]} after something was asked aside, and else {grown[0]}"


async def branches_are_released_with_all_below(case: _Case) -> None:
    """Whoever waits for a branch to be released hears of it once it and all below it are closed, and then at once."""
    _, root = await case.root()
    first, second = await root.extend(2, case.until)
    released: list[str] = []
    root.when_released(lambda: released.append("root"))
    first.when_released(lambda: released.append("first"))
    await root.close()
    assert not released, "a branch was released while its children were open"
    await first.close()
    assert released == ["first"], f"one of two children was closed, and {released} released"
    await second.close()
    await second.close()
    assert released == ["first", "root"], f"all are closed, and {released} released"
    root.when_released(lambda: released.append("late"))
    assert released[2:] == ["late"], "what comes after the release is not told of it"


LAWS: tuple[Law, ...] = (
    prefixes_are_immutable,
    extending_is_deterministic,
    scores_are_sums_of_log_probabilities,
    fed_text_is_a_prefix_like_any_other,
    closed_branches_refuse_use,
    budgets_are_charged_once,
    budgets_are_kept,
    until_is_kept,
    cancelling_leaves_the_rest_alone,
    cancelling_stops_the_bill,
    another_ledger_pays,
    asides_leave_no_trace,
    branches_are_released_with_all_below,
    texts_are_shown_as_they_grow,
    time_is_kept,
    flops_are_kept,
    options_are_checked,
    empty_prompts_are_refused,
)
