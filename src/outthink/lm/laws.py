"""The laws of the `LM` protocol: what a strategy may rely on, whoever implements it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BranchClosedError, PromptError
from outthink.core.question import Prompt
from outthink.core.sampling import Sampling, Until
from outthink.lm.protocol import LM, Branch

MakeLM = Callable[[Ledger, Sampling], LM]


async def check_lm(make_lm: MakeLM, prompt: Prompt, *, max_tokens: int = 6, tolerance: float = 1e-4) -> None:
    """Raise AssertionError, naming the law, unless the implementation keeps all of them.

    ``make_lm`` makes a fresh `LM` on the given ledger and sampling; ``prompt`` must leave room for 8 x ``max_tokens``.
    ``tolerance`` bounds differences of log-probabilities (nats).
    """
    for law in LAWS:
        await law(_Case(make_lm, prompt, Until(max_tokens), tolerance))


class _Case:
    def __init__(self, make_lm: MakeLM, prompt: Prompt, until: Until, tolerance: float) -> None:
        self.make_lm, self.prompt, self.until, self.tolerance = make_lm, prompt, until, tolerance

    def lm(self, budget: Budget | None = None, **sampling: float) -> LM:
        return self.make_lm(Ledger(budget), Sampling(**{"seed": 11, **sampling}))  # type: ignore[arg-type]

    async def root(self, budget: Budget | None = None, **sampling: float) -> tuple[LM, Branch]:
        lm = self.lm(budget, **sampling)
        return lm, await lm.root(self.prompt)


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


LAWS: tuple[Callable[[_Case], Awaitable[None]], ...] = (
    prefixes_are_immutable,
    extending_is_deterministic,
    scores_are_sums_of_log_probabilities,
    fed_text_is_a_prefix_like_any_other,
    closed_branches_refuse_use,
    budgets_are_charged_once,
    budgets_are_kept,
    until_is_kept,
    cancelling_leaves_the_rest_alone,
    empty_prompts_are_refused,
)
