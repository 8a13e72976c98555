"""Sequential and mixed strategies against enumeration: the laws of forced, speculated and revised lines."""

import functools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from outthink.core.budget import Budget
from outthink.core.errors import PromptError
from outthink.core.question import Question
from outthink.core.sampling import Until
from outthink.lm.toy import ToyBranch, ToyLM
from outthink.reason.holding import Holding
from outthink.reason.sequential.evolve import cross, draw_parents, meetings, mutate, survivors
from outthink.reason.sequential.revise import _go_back
from outthink.reason.sequential.traces import Trace, asked_again
from outthink.reason.solve import think
from quick_toy import cached_law, toy
from search_world import PROMPT, Scores, StepWorld, grown, path_of

CHANCE = 1e-6  # how often a right law is rejected


def quick(world, seed=0):
    """The world's model, drawn quickly."""
    return toy(world.alphabet, 2 + 2 * world.depth, law=world.law, seed=seed)


def fits(counts, law, n):
    """Whether ``counts`` of ``n`` draws pass a chi-square test against ``law``; rare outcomes are counted as one."""
    assert math.isclose(sum(law.values()), 1.0, abs_tol=1e-9)
    assert not set(counts) - set(law)
    common = [key for key, p in law.items() if n * p >= 5]
    seen, expected = [counts[key] for key in common], [n * law[key] for key in common]
    if n - sum(expected) > 1e-6:
        seen, expected = [*seen, n - sum(seen)], [*expected, n - sum(expected)]
    return chisquare(seen, expected).pvalue > CHANCE


# ---- budget forcing -------------------------------------------------------------------------------------------------

LETTERS, END_TAG, CONTEXT = "ab.", ".", 24
RESTLESS = cached_law(11, len(LETTERS) + 1, 0.7)


def spell(prefix):
    return "".join((*LETTERS, "")[token] for token in prefix)


@functools.cache
def forced_law_of(prefix):
    """Logits that depend on the whole prefix; thinking ends early, and lines soon after their answer."""
    text = spell(prefix)
    answered = END_TAG in text and not text.endswith(END_TAG)
    return RESTLESS(prefix) + np.array([0.0, 0.0, 1.5 - 3.5 * (END_TAG in text), 3.0 if answered else -1.5])


def forced_answer(text):
    """The first letter after the last mark that ends thinking; the number of marks before it, lest any be missed."""
    *before, last = text.split(END_TAG)
    return f"{len(before)}{last[:1]}" if before and last else None


def forced_law(least, most, waits, wait, answer, longest):
    """The law over answers by recursion over every token that can be drawn."""
    lm, law = toy(LETTERS, CONTEXT, law=forced_law_of), Counter()
    start = lm.encode("a")

    def finish(prefix, left, p):
        """Draw to the end of the line."""
        if left == 0 or len(prefix) == lm.context:
            law[None if prefix[-1] != lm.end else forced_answer(lm.spell(prefix[1:]))] += p
            return
        following = np.exp(lm.log_probs(prefix))
        for token in range(lm.end + 1):
            step = (*prefix, token)
            finish(step, 0 if token == lm.end else left - 1, p * following[token])

    def think_on(prefix, thought, waited, p):
        if thought == most:
            finish(prefix + lm.encode(answer), longest - thought, p)
            return
        following = np.exp(lm.log_probs(prefix))
        for token in range(lm.end + 1):
            step, q = (*prefix, token), p * following[token]
            if token != lm.end and lm.spell([token]) != END_TAG:
                think_on(step, thought + 1, waited, q)
            elif thought + 1 < least and waited < waits:
                think_on(prefix + lm.encode(wait), thought + 1, waited + 1, q)
            else:
                finish(step, 0 if token == lm.end else longest - thought - 1, q)

    think_on(start, 0, 0, 1.0)
    return dict(law)


@pytest.mark.parametrize(("least", "most", "waits", "wait"), [(0, 2, 4, "b"), (3, 4, 1, "b"), (4, 4, 3, "ab")])
async def test_forced_lines_follow_the_enumerated_law(least, most, waits, wait):
    longest, n = 7, 800
    law = forced_law(least, most, waits, wait, END_TAG, longest)
    question = Question("a", forced_answer)
    lm = toy(LETTERS, CONTEXT, law=forced_law_of, seed=2)
    options = {"ends": (END_TAG,), "answer": END_TAG, "wait": wait, "reserve": 1, "max_tokens": longest}
    found = await think(question, lm, "budget-forcing", n=n, least=least, most=most, waits=waits, **options)
    counts = Counter(candidate.answer for candidate in found.candidates)
    counts[None] = n - len(found.candidates)
    assert fits(counts, law, n)
    other = forced_law(0, most, waits, wait, END_TAG, longest)
    if waits == 3:
        assert not fits(counts, other, n), "lines were not made to think on"


async def test_whatever_the_budget_there_is_an_answer_from_its_reserve_on():
    """A model that never stops thinking by itself answers all the same, and spends what it may."""
    law = cached_law(12, len(LETTERS) + 1, 0.7)
    endless = toy(
        LETTERS, 64, law=lambda prefix: law(prefix) - np.array([0, 0, 99, 99 * (END_TAG not in spell(prefix))])
    )
    question = Question("a", forced_answer)
    for tokens in range(1, 40):
        lm = endless.with_ledger(type(endless.ledger)(Budget(tokens=tokens)))
        options = {"ends": (END_TAG,), "answer": END_TAG, "reserve": 4, "n": 1}
        found = await think(question, lm, "budget-forcing", **options)
        assert lm.ledger.bill.tokens <= tokens
        thought = [t for t in grown(found.tree) if t.finish is not None]
        if tokens >= 6:
            assert END_TAG in "".join(t.text for t in thought[-1].line()), "cut while it was still thinking"
            assert lm.ledger.bill.tokens >= tokens - 4


# ---- speculation by steps -------------------------------------------------------------------------------------------

LARGE, SMALL = StepWorld("abc", 2, 0, sharpness=0.8), StepWorld("abc", 2, 8, sharpness=0.8)


def step_probabilities(world, path):
    """The probability of each letter after ``path``."""
    return {c: math.exp(world.log_prob(path + c) - world.log_prob(path)) for c in world.letters}


def speculated_law(accept):
    """Of each path: the small model's step if the large one finds it likely enough, else one of the large one's."""
    law = {"": 1.0}
    for _ in range(LARGE.depth):
        longer = Counter()
        for path, p in law.items():
            large, small = step_probabilities(LARGE, path), step_probabilities(SMALL, path)
            kept = {c: q for c, q in small.items() if math.sqrt(large[c]) >= accept}  # a line break is certain
            for c in LARGE.letters:
                longer[path + c] += p * (kept.get(c, 0.0) + (1 - sum(kept.values())) * large[c])
        law = dict(longer)
    return law


@pytest.mark.parametrize("accept", [0.5, 0.6])
async def test_speculated_lines_follow_the_enumerated_law(accept):
    n, law = 400, speculated_law(accept)
    found = await think(LARGE.question, quick(LARGE, 1), "speculative-steps", draft=quick(SMALL), n=n, accept=accept)
    counts = Counter(candidate.answer for candidate in found.candidates)
    assert fits(counts, law, n)
    others = [other for other in (0.0, 0.55, 1.1) if abs(other - accept) > 0.2]
    assert not any(fits(counts, speculated_law(other), n) for other in others), "the test has no power"


async def test_who_writes_at_the_ends_of_the_scale():
    """With accept=0 the large model draws nothing, above 1 every step is drawn by both, and the large one's is kept."""
    lm = LARGE.lm(seed=4)
    found = await think(LARGE.question, lm, "speculative-steps", draft=SMALL.lm(), n=5, accept=0.0)
    assert lm.ledger.bill.decoded == 5 * 2 * LARGE.depth
    lm = LARGE.lm(seed=4)
    found = await think(LARGE.question, lm, "speculative-steps", draft=SMALL.lm(), n=5, accept=1.1)
    assert lm.ledger.bill.decoded == 2 * 5 * 2 * LARGE.depth
    rewritten = [t for t in grown(found.tree) if t.fate == "rewritten by the large model"]
    assert len(rewritten) == 5 * LARGE.depth
    line = await LARGE.lm(seed=4).root(PROMPT)
    for _ in range(LARGE.depth):
        [line] = await line.extend(1, Until(stop=("\n",)))
    assert found.candidates[0].text == line.full_text, "its own line, on random numbers of its own"


async def test_a_verifier_of_steps_decides_where_there_is_one():
    judge = Scores(lambda path: 0.0 if path.endswith("b") else math.log(0.1))
    found = await think(LARGE.question, LARGE.lm(), "speculative-steps", judge, draft=SMALL.lm(), n=40, accept=0.5)
    for thought in grown(found.tree):
        drafted_badly = thought.value is not None and not path_of(thought).endswith("b")
        assert drafted_badly == (thought.fate == "rewritten by the large model")


async def test_a_small_model_whose_context_is_full_hands_over():
    small = ToyLM(SMALL.law, SMALL.alphabet, context=3)
    found = await think(LARGE.question, LARGE.lm(), "speculative-steps", draft=small, n=6, accept=0.0)
    assert all(len(candidate.answer) == LARGE.depth for candidate in found.candidates)
    assert len(found.candidates) == 6


# ---- revision -------------------------------------------------------------------------------------------------------


def towards(target):
    """A verifier that knows the right line: it marks the first wrong step, and accepts the whole."""
    return Scores(
        lambda path: -math.inf if not target.startswith(path) else 0.0 if path == target else -1e-9, accept=0.0
    )


async def test_revision_keeps_what_is_right_and_takes_as_many_lines_as_it_must():
    """The number of lines is the time that a Markov chain takes: from k right steps the rest is drawn, until all are
    right. Its mean over 100 seeds, against the exact one (z-test; fails by chance once in a million)."""
    world, target = StepWorld("abc", 3, 4), "cab"
    p = [math.exp(world.log_prob(target[: k + 1]) - world.log_prob(target[:k])) for k in range(3)]
    mean = [0.0] * 4  # the expected number of lines still to come with k right steps kept
    second = [0.0] * 4
    for k in (2, 1, 0):
        reach = {j: math.prod(p[k:j]) * (1 - p[j] if j < 3 else 1.0) for j in range(k, 4)}
        on = [(q, j) for j, q in reach.items() if j > k]
        stay = reach[k]
        mean[k] = (1 + sum(q * mean[j] for q, j in on)) / (1 - stay)
        both = 1 + 2 * stay * mean[k] + sum(q * (2 * mean[j] + second[j]) for q, j in on)
        second[k] = both / (1 - stay)
    counts = []
    for seed in range(100):
        found = await think(world.question, quick(world, seed), "revise", towards(target), n=200, width=200)
        assert (found.best, found.stopped) == (target, "verified")
        counts.append(found.attempts)
        rights = [t for t in grown(found.tree) if t.value > -math.inf]
        assert sorted(path_of(t) for t in rights) == sorted(target[: k + 1] for k in range(3)), "a right step, twice"
    z = (np.mean(counts) - mean[0]) / math.sqrt((second[0] - mean[0] ** 2) / len(counts))
    assert abs(z) < 4.9
    once = await think(world.question, world.lm(), "majority-vote", n=1)
    assert mean[0] > 2 and once.attempts == 1


def line_of(*names):
    """A trace whose tips are told apart by name."""
    return Trace("root", list(names), [0.0] * len(names))


def test_a_step_that_cannot_be_mended_is_gone_back_behind():
    tries, line = Counter(), line_of("x", "y", "z")
    starts = [len(_go_back(line, 2, tries, 2).tips) for _ in range(8)]
    assert starts == [2, 2, 1, 1, 0, 0, 0, 0], "two tries each, and from the beginning for ever"


async def test_in_words_the_model_reads_its_line_and_what_is_wrong(monkeypatch):
    asked, root = [], ToyLM.root

    async def noting_root(self, prompt):
        asked.append(prompt)
        return await root(self, prompt)

    monkeypatch.setattr(ToyLM, "root", noting_root)
    world = StepWorld("abc", 2, 3)
    context = ToyLM(world.law, world.alphabet, context=60)
    await think(world.question, context, "revise", Scores(lambda path: -math.inf), n=3, feedback="{step}{answer}\n")
    first = asked[1].removeprefix(PROMPT)
    answer = world.parse(first)
    assert asked[0] == PROMPT
    assert asked[1] == PROMPT + first and first.endswith(f"{first[0]}{answer}\n"), (
        "the line, its first step, its answer"
    )
    assert asked[2].startswith(PROMPT) and not asked[2].startswith(asked[1]), "the last line alone is shown"


def test_asking_again_in_a_chat_is_another_turn():
    chat = [{"role": "user", "content": "2+2?"}]
    again = asked_again(chat, "\nNot {answer}. {draft}?", answer="5", draft="so 5")
    assert again == [
        *chat,
        {"role": "assistant", "content": "so 5"},
        {"role": "user", "content": "Not 5. so 5?"},
    ]
    assert asked_again(chat, "Better {first}?", first="5")[1:] == [{"role": "user", "content": "Better 5?"}]


# ---- evolution ------------------------------------------------------------------------------------------------------


async def written(root, *paths):
    """Lines of the given steps, fed below ``root``."""
    lines = []
    for path in paths:
        line = Trace(root)
        for letter in path:
            line.tips.append(await line.end.feed(letter + "\n"))
        lines.append(line)
    return lines


async def test_lines_are_crossed_where_they_share_a_step():
    world, rng = StepWorld("abcd", 5), np.random.default_rng(0)
    root = await ToyLM(world.law, world.alphabet, context=40).root(PROMPT)
    one, two = await written(root, "abcda", "dbcab")
    # a as well is in both, but too near the end of the second.
    assert meetings(one, two) == [(1, 1), (2, 2), (3, 0)]
    assert meetings(one, one) == [], "a line does not meet itself"
    seen = set()
    for _ in range(40):
        for place in meetings(one, two):
            async with Holding() as held:
                child = await cross(one, two, place, rng, held)
            seen.add(child.end.full_text.replace("\n", ""))
    assert seen == {"abc", "abca", "abcdb", "abcdbc", "abcdbca"}, "the first, then steps of the second"


async def test_no_room_for_what_is_crossed_in_is_no_error():
    world = StepWorld("abcd", 5)
    lm = ToyLM(world.law, world.alphabet, context=9)
    root = await lm.root(PROMPT)
    one, two = await written(root, "aab", "cb")
    two.tips += [await two.end.feed(letter + "\n") for letter in "a"]
    two.tips.append(await two.end.feed("c\n"))
    with pytest.raises(PromptError):
        await one.end.feed("aaa\n")
    async with Holding() as held:
        child = await cross(one, two, (2, 1), np.random.default_rng(0), held)
    assert child.end.full_text.startswith("a\na\nb\n")


def test_mutation_goes_back_to_any_step_up_to_the_first_wrong_one():
    rng = np.random.default_rng(0)
    line = Trace("root", list("wxyz"), [0.0, math.log(0.9), math.log(0.2), 0.0])
    counts = Counter(len(mutate(line, 0.5, rng).tips) for _ in range(900))
    assert fits(counts, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, 900)
    line.scores = [0.0] * 4
    assert {len(mutate(line, 0.5, rng).tips) for _ in range(200)} == {0, 1, 2, 3}


def test_parents_are_drawn_by_fitness():
    rng = np.random.default_rng(1)
    lines = [Trace("root", ["x"], [math.log(w)]) for w in (0.6, 0.3, 0.1)]
    counts = Counter(lines.index(draw_parents(lines, 1.0, rng)[0]) for _ in range(3000))
    assert fits(counts, {0: 0.6, 1: 0.3, 2: 0.1}, 3000)
    assert {lines.index(draw_parents(lines, 0.0, rng)[0]) for _ in range(50)} == {0}
    for line in lines:
        line.scores = [-math.inf]
    assert {lines.index(draw_parents(lines, 1.0, rng)[0]) for _ in range(50)} == {0, 1, 2}, "all alike, all ruled out"
    assert draw_parents([], 1.0, rng) is None


async def test_the_best_distinct_lines_survive():
    world = StepWorld("abc", 3)
    root = await world.lm().root(PROMPT)
    lines = await written(root, "abc", "abc", "bbb", "cca")
    for line, score in zip(lines, (-2.0, -2.0, -1.0, -3.0), strict=True):
        line.scores = [score] * 3
    assert survivors(lines, 2) == [lines[2], lines[0]]
    cut = lines[2].tips[-1]
    assert isinstance(cut, ToyBranch)
    cut.finish_with("budget")
    assert survivors(lines, 9) == [lines[0], lines[3]]


async def test_evolution_finds_what_as_many_independent_lines_do_not():
    """Six letters, each right one worth as much: 64 lines that build on each other against 64 that do not."""
    world, target = StepWorld("abc", 6, 1), "cabcab"

    def fitness(path):
        return math.log((1 + sum(a == b for a, b in zip(path, target, strict=False))) / (1 + len(path)))

    hits = Counter()
    for seed in range(8):
        for name, options in (("evolve", {"temperature": 0.1, "bad": 0.9}), ("best-of-n", {})):
            judge = Scores(fitness, accept=0.0)
            found = await think(world.question, quick(world, seed), name, judge, n=64, **options)
            hits[name] += found.best == target
    assert hits["evolve"] >= hits["best-of-n"] + 4


# ---- two models in one tree -----------------------------------------------------------------------------------------


class OneLetter(StepWorld):
    """A model that writes one letter only, so that it can be seen who wrote."""

    def __init__(self, letter, depth=3):
        super().__init__("abc", depth)
        self.letter = letter

    def _logits(self, prefix):
        logits = super()._logits(prefix)
        if len(prefix) % 2:
            logits[:3] = [0.0 if c == self.letter else -1e9 for c in "abc"]
        return logits


def finished_by(found):
    """How many lines each model wrote to their end: equal lines are one node of the tree, visited that often."""
    visits = Counter()
    for thought in grown(found.tree):
        visits.update({thought.answer[-1]: thought.visits or 0} if thought.answer else {})
    return visits


@pytest.mark.parametrize(("better", "other"), [("a", "b"), ("b", "a")])
async def test_the_better_model_writes_ever_more(better, other):
    judge = Scores(lambda path: math.log(0.9 if path.endswith(better) else 0.1))
    lm = OneLetter("a").lm(seed=3)
    found = await think(OneLetter("a").question, lm, "two-models", judge, second=OneLetter("b").lm(), n=80)
    visits = finished_by(found)
    assert visits[better] > 3 * visits[other] > 0
    assert sum(visits.values()) == 80
    mixed = {t.answer for t in grown(found.tree) if t.answer and len(set(t.answer)) > 1}
    assert mixed, "no line was begun by one model and gone on from by the other"


async def test_a_price_makes_the_cheaper_of_equals_write():
    judge, shares = Scores(lambda path: math.log(0.5)), []
    for price in (4.0, 0.25):
        lm = OneLetter("a").lm(seed=3)
        found = await think(
            OneLetter("a").question, lm, "two-models", judge, second=OneLetter("b").lm(), n=60, price=price
        )
        shares.append(finished_by(found)["b"] / 60)
    assert shares[0] < 0.35 < 0.65 < shares[1]


async def test_both_models_read_what_the_other_wrote_in_one_tree():
    world, other = StepWorld("abc", 3, 2), StepWorld("abc", 3, 9)
    lm = world.lm()
    found = await think(world.question, lm, "two-models", Scores(lambda path: math.log(0.5)), second=other.lm(), n=40)
    assert len(found.tree.children) == 1, "one tree"
    for thought in grown(found.tree):
        path = path_of(thought)
        options = [math.exp(w.log_prob(path) - w.log_prob(path[:-1])) for w in (world, other)]
        assert min(abs(math.exp(thought.log_prob) - p) for p in options) < 1e-4, "drawn by neither model's law"
