"""Aggregation against the same lines drawn one after another, and against enumeration; what is cancelled costs little.

The toy model's k-th line is the same however it is asked for, so that every strategy can be checked line by line.
"""

import asyncio
import math
from collections import Counter
from contextlib import aclosing

import numpy as np
import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM, random_law
from outthink.posterior.stopping import Resampling
from outthink.reason.adaptive_vote import adaptive_vote, has_settled
from outthink.reason.confident_vote import confident_vote, kept_from, lowest_confidence
from outthink.reason.consistent_vote import probability_consistency, prune_unlikely
from outthink.reason.hint_vote import hint_marginalization, share_out, with_hint
from outthink.reason.in_order import lines_in_order, whole_line
from outthink.reason.solve import think
from outthink.reason.subthought_vote import subthought_vote
from outthink.reason.worthwhile import sample_while_worthwhile

ALPHABET, PROMPT, LONGEST = "abc", "ab", 6


def last_letter(text):
    return text[-1] if len(text) >= 2 else None


def toy(budget=None, seed=0, law=None, alphabet=ALPHABET, longest=LONGEST, **sampling):
    made = law or random_law(3, len(alphabet) + 1)
    return ToyLM(made, alphabet, Ledger(budget), Sampling(seed=seed, **sampling), context=2 + longest)


def question(right="b", parse=last_letter):
    return Question(PROMPT, parse, lambda answer: answer == right)


async def drawn(n, **options):
    """The first ``n`` lines, all asked for at once."""
    return await (await toy(**options).root(PROMPT)).extend(n)


def answer_of(line):
    return question().answer_of(line)


class Fallible:
    """Accepts what ends in one of ``letters``; not always rightly."""

    name, sound, partial = "fallible", False, True

    def __init__(self, letters="b"):
        self.letters = letters

    def require(self, question):
        pass

    async def score(self, question, branches, ledger):
        ledger.charge(verifier_calls=len(branches))
        return [0.0 if b.full_text[-1:] in tuple(self.letters) else -math.inf for b in branches]

    def accepts(self, score):
        return score == 0.0


# ---- lines in order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("budget", [None, Budget(tokens=45), Budget(flops=45)])
async def test_lines_come_in_the_order_of_their_keys(width, budget):
    lm = toy(budget)
    root, seen = await lm.root(PROMPT), []
    async with aclosing(lines_in_order(whole_line(root, Until()), 12, width, lm.ledger)) as lines:
        async for line in lines:
            seen.append(line.text)
    whole = [line.text for line in await drawn(12)]
    assert all(text == full[: len(text)] for text, full in zip(seen, whole, strict=False))
    if budget is None:
        assert seen == whole
    else:
        assert lm.ledger.bill.tokens <= 45
        assert sum(text == full for text, full in zip(seen, whole, strict=False)) >= len(seen) - 2 > 3


async def test_a_slow_line_holds_back_what_is_seen_but_not_what_is_drawn():
    """Line 0 never ends: lines 1 to 2 x width - 1 are drawn beside it, none is seen, and leaving cancels all."""
    begun, cancelled = [], []

    async def grow(share):
        number = len(begun)
        begun.append(number)
        try:
            if number == 0:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return (await drawn(1))[0]
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def watch():
        async with aclosing(lines_in_order(grow, 100, 4, Ledger())) as lines:
            async for _ in lines:
                raise AssertionError("a line was seen before line 0")

    task = asyncio.create_task(watch())
    for _ in range(200):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert begun == list(range(8))
    assert cancelled == [0]


# ---- adaptive voting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 8])
async def test_adaptive_vote_stops_at_the_first_settled_prefix(seed, width):
    lines = await drawn(64, seed=seed)
    votes, stop = Counter(), 64
    for k, line in enumerate(lines):
        votes.update([a] if (a := answer_of(line)) else [])
        if has_settled(votes, 0.9):
            stop = k + 1
            break
    lm = toy(seed=seed)
    found = await think(question(), lm, adaptive_vote, settled=0.9, width=width)
    assert found.attempts == stop
    assert found.best == votes.most_common(1)[0][0]
    assert found.weights == pytest.approx({a: c / stop for a, c in votes.items()})
    assert found.stopped == ("settled" if stop < 64 else "finished")
    longest = sum(len(line.tokens) for line in lines[: stop + 2 * width])
    assert lm.ledger.bill.decoded <= longest, "lines were drawn on after it had settled"


async def test_settled_needs_a_lead_and_not_only_votes():
    assert not has_settled(Counter(), 0.6)
    assert not has_settled(Counter(a=9, b=9), 0.6)
    assert has_settled(Counter(a=9, b=1, c=1), 0.95)
    assert not has_settled(Counter(a=3), 0.95)
    assert has_settled(Counter(a=4), 0.95)


# ---- confidence -----------------------------------------------------------------------------------------------------


def confidence_by_hand(line, window, top):
    """From the law itself: the lowest mean, over windows, of minus the mean of the ``top`` log-probabilities."""
    lm = toy()
    values = []
    for i in range(len(line.tokens)):
        law = sorted(lm.log_probs(lm.encode(PROMPT) + tuple(line.tokens[:i])), reverse=True)[:top]
        values.append(-sum(law) / len(law))
    size = min(window, len(values))
    return min(sum(values[i : i + size]) / size for i in range(len(values) - size + 1))


@pytest.mark.parametrize(("window", "top", "keep"), [(2, 2, 0.5), (3, 3, 0.25), (50, 2, 1.0)])
async def test_confident_vote_keeps_the_surest_share(window, top, keep):
    lines = await drawn(12)
    sure = [confidence_by_hand(line, window, top) for line in lines]
    floor = sorted(sure, reverse=True)[math.ceil(keep * 12) - 1]
    expected, total = {}, 0.0
    for line, s in zip(lines, sure, strict=True):
        if s >= floor - 1e-9:
            total += s
            if (answer := answer_of(line)) is not None:
                expected[answer] = expected.get(answer, 0.0) + s
    found = await think(question(), toy(), confident_vote, n=12, warmup=12, window=window, top=top, keep=keep)
    assert found.weights == pytest.approx({a: w / total for a, w in expected.items()}, rel=1e-4)
    assert found.attempts == 12


async def test_confident_vote_gives_up_lines_that_lose_their_confidence():
    """After a warm-up of 8, the others stop in the window in which they fall below; none that stays above is cut."""

    def law(prefix):
        return random_law(12, 4)(prefix) - np.array([0.0, 0.0, 0.0, 3.0])  # long lines

    world = {"law": law, "longest": 16}
    lm = toy(**world)
    found = await think(question(), lm, confident_vote, n=40, warmup=8, window=3, top=2, keep=0.5)
    lines = await drawn(40, top_logprobs=2, **world)
    floor = kept_from([lowest_confidence(line, 3) for line in lines[:8]], 0.5)
    ends = [t for t in found.tree.walk() if t.tokens and not t.children]
    unsure = [t for t in ends if t.value < floor]
    assert {t.fate for t in unsure} == {"too unsure"}
    given_up = [t for t in ends if t.finish == "length" and sum(at.tokens for at in t.line()) < 16]
    assert given_up, "no line was given up"
    assert all(t in unsure and sum(at.tokens for at in t.line()) % 3 == 0 for t in given_up)
    assert found.attempts == 40
    assert lm.ledger.bill.decoded < sum(len(line.tokens) for line in lines)


async def test_confident_vote_needs_likeliest_tokens():
    class Mute(ToyLM):
        async def root(self, prompt):
            root = await super().root(prompt)
            plain = root.extend

            async def extend(n=1, until=None, sampling=None, on_token=None):
                return await plain(n, until, Sampling(seed=sampling.seed), on_token)

            root.extend = extend
            return root

    lm = Mute(random_law(3, 4), ALPHABET, context=8)
    with pytest.raises(CapabilityError, match="likeliest tokens"):
        await think(question(), lm, confident_vote, n=4)


# ---- probability consistency ----------------------------------------------------------------------------------------


async def test_probability_consistency_sums_distinct_lines_and_tends_to_the_law():
    lines = await drawn(400)
    sums, lost = {}, 0.0
    for line in {tuple(line.tokens): line for line in lines}.values():
        p = math.exp(sum(line.log_probs))
        if (answer := answer_of(line)) is None:
            lost += p
        else:
            sums[answer] = sums.get(answer, 0.0) + p
    total = sum(sums.values()) + lost
    found = await think(question(), toy(), probability_consistency, n=400, prune=False)
    assert found.weights == pytest.approx({a: p / total for a, p in sums.items()}, rel=1e-4)
    exact = {}
    for text, log_prob, finish in toy().enumerate(PROMPT, LONGEST):
        answer = last_letter(text) if finish == "stop" else None
        exact[answer] = exact.get(answer, 0.0) + math.exp(log_prob)
    for answer, p in sums.items():
        assert p <= exact[answer] + 1e-6
        assert p > 0.7 * exact[answer]


async def test_pruning_drops_only_lines_below_the_mean():
    lines = list({tuple(line.tokens): line for line in await drawn(60)}.values())
    rates = {line: math.exp(sum(line.log_probs) / len(line.tokens)) for line in lines}
    kept = prune_unlikely(lines)
    dropped = set(lines) - set(kept)
    assert dropped
    assert max(rates[line] for line in dropped) < sum(rates.values()) / len(rates)
    assert max(rates[line] for line in dropped) < max(rates[line] for line in kept)
    assert prune_unlikely(lines[:3]) == lines[:3]
    found = await think(question(), toy(), probability_consistency, n=60)
    assert len(found.candidates) == sum(answer_of(line) is not None for line in kept)
    assert found.attempts == 60


def short_or_long(prefix):
    """After the prompt "a": a or b, a line break; then a is over, and ten more letters follow b."""
    line, logits = prefix[1:], np.full(4, -40.0)
    if not line:
        logits[:2] = np.log([0.3, 0.7])
    elif len(line) == 1:
        logits[2] = 0.0
    elif line[0] == 0 or len(line) == 12:
        logits[3] = 0.0
    else:
        logits[:2] = 0.0
    return logits


async def test_lines_that_the_budget_cut_do_not_weigh_as_whole_ones():
    """The beginning of a line of b is likelier than any line of a, and all whole ones of b are less likely."""
    asked = Question("a", lambda text: text[0] if "\n" in text else None)
    answered_and_cut = 0
    for tokens in range(20, 75, 3):
        lm = ToyLM(short_or_long, "ab\n", Ledger(Budget(tokens=tokens)), Sampling(seed=4), context=64)
        found = await think(asked, lm, probability_consistency, prune=False)
        ends = [thought for thought in found.tree.walk() if thought.finish is not None]
        whole = {thought.text: thought for thought in ends if thought.finish == "stop"}
        answered_and_cut += any("\n" in thought.text for thought in ends if thought.finish != "stop")
        assert whole, "the first line ends"
        total = sum(math.exp(thought.log_prob) for thought in whole.values())
        for answer in "ab":
            share = sum(math.exp(thought.log_prob) for text, thought in whole.items() if text[0] == answer) / total
            assert found.weights.get(answer, 0.0) == pytest.approx(share, rel=1e-4)
        assert all(thought.fate == "cut by the budget" for thought in ends if thought.finish != "stop")
    assert answered_and_cut > 3
    lm = ToyLM(short_or_long, "ab\n", Ledger(Budget(tokens=6)), Sampling(seed=1), context=64)
    found = await think(asked, lm, probability_consistency)
    assert (found.best, found.attempts) == ("b", 1), "where there is no other, it is the best so far"


# ---- sub-thoughts ---------------------------------------------------------------------------------------------------


def two_letters(text):
    return text[-1] if text[-1:] in ("a", "b") else None


STEPS = {"alphabet": "ab\n", "law": random_law(11, 4, 0.7), "longest": 12}


async def test_subthoughts_are_completions_of_the_line_s_own_steps():
    lm = toy(seed=2, **STEPS)
    found = await think(question(parse=two_letters), lm, subthought_vote, n=30, cuts=3)
    assert found.attempts == 30
    leaves = [t for t in found.tree.walk() if not t.children]
    assert len(leaves) >= 30 - 1
    branching = [t for t in found.tree.walk() if len(t.children) > 1 and t.parent is not None and t.parent.parent]
    assert branching, "nothing was completed from a step"
    for t in branching:
        assert t.text.endswith("\n")
        assert len(t.children) == 2, "one child goes on with the line, one completes it anew"
    assert lm.ledger.bill.decoded == sum(t.tokens for t in found.tree.walk()), "steps were paid for twice"


# ---- a checker that can be fooled -----------------------------------------------------------------------------------


async def test_worthwhile_stops_at_the_best_number_of_tries():
    model = Resampling.beta(0.5, 0.5, 1.0, 0.2)
    best = model.best_number()
    assert 1 <= best < 20
    found = await think(question(), toy(), sample_while_worthwhile, Fallible("x"), accepts_wrong=0.2)
    assert found.attempts == best
    assert found.stopped == "not worth another line"
    assert found.best is None
    patient = await think(question(), toy(), sample_while_worthwhile, Fallible("x"), accepts_wrong=0.2, n=best - 1)
    assert patient.stopped == "nothing verified"


@pytest.mark.parametrize("width", [1, 4])
async def test_worthwhile_is_as_sure_as_bayes_says(width):
    lines = await drawn(64)
    first = next(k for k, line in enumerate(lines) if answer_of(line) == "b")
    options = {"accepts_wrong": 0.05, "wrong_cost": 0.1, "width": width}
    found = await think(question(), toy(), sample_while_worthwhile, Fallible("b"), **options)
    assert found.best == "b"
    assert found.attempts == first + 1
    assert found.confidence == pytest.approx(Resampling.beta(0.5, 0.5, 1.0, 0.05).confidence(first))
    sound = await think(question(), toy(), sample_while_worthwhile, "exact")
    assert sound.confidence == 1.0


# ---- hints ----------------------------------------------------------------------------------------------------------


def test_lines_are_shared_out_in_proportion():
    assert share_out({"a": 0.6, "b": 0.3, "c": 0.1}, 10) == {"a": 6, "b": 3, "c": 1}
    assert share_out({"a": 0.98, "b": 0.01, "c": 0.01}, 6) == {"a": 4, "b": 1, "c": 1}
    assert share_out({"a": 0.5, "b": 0.3, "c": 0.2}, 2) == {"a": 1, "b": 1}
    assert share_out({}, 5) == {}


def test_a_hint_goes_to_the_end_of_what_the_user_said():
    chat = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "?"}]
    assert with_hint(chat, " ({answer})", "4")[-1]["content"] == "? (4)"
    assert chat[-1]["content"] == "?"
    assert with_hint("2+2", " ({answer})", "4") == "2+2 (4)"
    with pytest.raises(CapabilityError, match="token ids"):
        with_hint([1, 2], "{answer}", "4")


async def test_hints_are_marginalized_over():
    """One round: the share of an answer is the sum over hints of the hint's share x the rate of the answer under it."""
    lm = toy(longest=8)
    found = await think(question(), lm, hint_marginalization, n=60, rounds=1, hint="{answer}")
    plain = Counter(a for line in await drawn(30, longest=8) if (a := answer_of(line)))
    shares = {a: c / sum(plain.values()) for a, c in plain.most_common()}
    expected = Counter()
    for hint, count in share_out(shares, 30).items():
        root = await toy(longest=8).root(PROMPT + hint)
        for line in await root.extend(count):
            expected[answer_of(line)] += shares[hint] / count
    del expected[None]
    assert found.weights == pytest.approx(dict(expected))
    assert found.attempts == 60


@pytest.mark.parametrize("hint", ["{answer}", "\n{answer}"])
@pytest.mark.parametrize("tokens", [100, 700, 3000])
async def test_hints_spend_a_budget_to_its_end(hint, tokens):
    """Half of it on first answers, a quarter on each round; all on first answers where the model cannot read a hint."""
    lm = toy(Budget(tokens=tokens), longest=8)
    found = await think(question(), lm, hint_marginalization, n=tokens, hint=hint)
    assert 0.9 * tokens <= found.cost.tokens <= tokens
    plain, *hinted = lm.tree.children
    drawn = [sum(t.tokens for t in top.walk()) for top in (plain, *hinted)]
    assert (hint == "{answer}") is bool(hinted)
    if tokens > 100 and hinted:
        assert 0.35 * tokens <= drawn[0] <= 0.6 * tokens
    assert found.stopped == "budget" and found.best is not None
    assert found.attempts >= sum(t.finish == "stop" for t in plain.walk())


async def test_a_hint_after_which_hardly_any_line_answers_is_not_read():
    """A model that ends at once after a hint, but for one line in twenty-five."""
    plain = random_law(3, 4)

    def law(prefix):
        if prefix[:3] != (0, 1, 2):  # "abc": the prompt with its only hint
            return plain(prefix)
        writes = {3: 0.04, 4: 1.0}.get(len(prefix), 0.0)
        return np.log(np.maximum([0.0, 0.0, writes, 1.0 - writes], 1e-300))

    asked = question(parse=lambda text: "c" if len(text) >= 2 else None)
    lm = toy(law=law)
    found = await think(asked, lm, hint_marginalization, n=400, hint="{answer}")
    without, hinted = ([t for t in top.walk() if t.finish] for top in found.tree.children)
    assert 0 < sum(len(t.text) >= 2 for t in hinted) < 20, "the check below says nothing"
    assert (found.attempts, len(without)) == (400, 300), "what the second round would have got goes to the first"
    assert {c.thought.parent for c in found.candidates} <= {t.parent for t in without}


async def test_where_a_hint_cannot_be_read_all_lines_are_without_one():
    found = await think(question(), toy(), hint_marginalization, n=40)
    plain = await think(question(), toy(), "majority-vote", n=40)
    assert found.weights == pytest.approx(plain.weights)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (adaptive_vote, {"settled": 1.0}, "settled=1.0"),
        (confident_vote, {"keep": 0.0}, "keep=0.0"),
        (confident_vote, {"top": 0}, "top=0"),
        (hint_marginalization, {"hint": "so"}, "place for"),
        (hint_marginalization, {"rounds": -1}, "rounds=-1"),
        (subthought_vote, {"steps": "verse"}, "steps='verse'"),
        (sample_while_worthwhile, {"accepts_wrong": 2.0}, "accepts_wrong=2.0"),
    ],
)
async def test_mistakes_are_user_errors_before_anything_is_spent(method, options, message):
    lm = toy()
    with pytest.raises(UserError, match=message):
        await think(question(), lm, method, Fallible(), **options)
    assert lm.ledger.bill.tokens == 0


async def test_worthwhile_needs_a_verifier():
    with pytest.raises(CapabilityError, match="needs a verifier"):
        await think(question(), toy(), sample_while_worthwhile)
