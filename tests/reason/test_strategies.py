"""Strategies against exact computation on a toy model that can be enumerated, and under every budget."""

import asyncio
import math

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, UnknownNameError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, exact_posterior, random_law
from outthink.reason import STRATEGIES
from outthink.reason.solve import think

ALPHABET, PROMPT, LONGEST = "abc", "ab", 5
NAMES = [name for name in STRATEGIES.names() if not STRATEGIES.get(name).models]  # those have laws of their own


def last_letter(text):
    """The toy answer: the last letter of a line of at least two."""
    return text[-1] if len(text) >= 2 else None


def toy(budget=None, seed=0, **sampling):
    return ToyLM(random_law(3, 4), ALPHABET, Ledger(budget), Sampling(seed=seed, **sampling), context=2 + LONGEST)


def question(right="b"):
    return Question(PROMPT, last_letter, lambda answer: answer == right)


def truth():
    """The exact law over answers. The context cuts lines at LONGEST tokens; cut lines are not read."""
    law = {}
    for text, log_prob, finish in toy().enumerate(PROMPT, LONGEST):
        answer = last_letter(text) if finish == "stop" else None
        law[answer] = law.get(answer, 0.0) + math.exp(log_prob)
    return law


def verifier_for(name):
    return "exact" if name in ("best-of-n", "sample-until-verified", "sample-while-worthwhile") else None


async def test_majority_vote_samples_the_model_s_own_law_over_answers():
    """Chi-square of 2,000 lines against the enumerated law; fails by chance once in a million."""
    law = truth()
    assert math.isclose(sum(law.values()), 1.0, abs_tol=1e-9)
    posterior = await think(question(), toy(), "majority-vote", n=2000)
    counts = dict.fromkeys(law, 0)
    for candidate in posterior.candidates:
        counts[candidate.answer] += 1
    counts[None] = posterior.attempts - len(posterior.candidates)
    answers = sorted(law, key=str)
    test = chisquare([counts[a] for a in answers], [2000 * law[a] for a in answers])
    assert test.pvalue > 1e-6
    for answer, share in posterior.weights.items():
        assert math.isclose(share, counts[answer] / 2000)


async def test_chi_square_has_the_power_to_reject_another_law():
    posterior = await think(question(), toy(temperature=0.5), "majority-vote", n=2000)
    law = truth()
    shares = posterior.weights
    answers = [a for a in law if a is not None]
    counts = [round(2000 * shares.get(a, 0)) for a in answers]
    counts.append(2000 - sum(counts))
    expected = [2000 * law[a] for a in answers]
    expected.append(2000 - sum(expected))
    assert chisquare(counts, expected).pvalue < 1e-6


async def test_probability_vote_weighs_by_probability_per_token():
    lm = toy()
    posterior = await think(question(), lm, "probability-vote", n=50)
    root = await toy().root(PROMPT)
    by_answer, lost = {}, 0.0
    for line in await root.extend(50):
        weight = math.exp(sum(line.log_probs) / len(line.tokens))
        answer = last_letter(line.text) if line.finish == "stop" else None
        if answer is None:
            lost += weight
        else:
            by_answer[answer] = by_answer.get(answer, 0.0) + weight
    total = sum(by_answer.values()) + lost
    assert posterior.weights == pytest.approx({a: w / total for a, w in by_answer.items()})


async def test_greedy_is_the_likeliest_token_each_time_and_its_probability():
    lm = toy()
    prefix, log_prob = lm.encode(PROMPT), 0.0
    while len(prefix) < lm.context and prefix[-1] != lm.end:
        law = lm.log_probs(prefix)
        prefix, log_prob = (*prefix, int(law.argmax())), log_prob + float(law.max())
    posterior = await think(question(), lm, "greedy")
    text = lm.spell(prefix[2:])
    assert lm.tree.children[0].children[0].text == text
    if prefix[-1] == lm.end and (answer := last_letter(text)):
        assert posterior.best == answer
        assert posterior.confidence == pytest.approx(math.exp(log_prob), rel=1e-5)
    else:
        assert posterior.best is None


async def test_greedy_confidence_on_a_sharper_law_with_an_answer():
    def law(prefix):
        return random_law(8, 4, sharpness=4.0)(prefix) + np.array([0, 0, 0, 2.0 * (len(prefix) > 4)])

    lm = ToyLM(law, ALPHABET, context=12)
    posterior = await think(question(), lm, "greedy")
    line = posterior.best_line
    assert line is not None
    assert posterior.confidence == pytest.approx(math.exp(line.thought.log_prob))
    assert posterior.confidence < 1


@pytest.mark.parametrize("n", [1, 3, 8])
async def test_best_of_n_with_the_checker_is_coverage(n):
    """Right exactly when one of the n lines is: over 300 seeds the rate must fit 1 - (1 - p)^n (exact binomial test,
    fails by chance once in a million) and agree line by line."""
    p, hits = truth()["b"], 0
    for seed in range(300):
        posterior = await think(question(), toy(seed=seed), "best-of-n", "exact", n=n)
        root = await toy(seed=seed).root(PROMPT)
        lines = await root.extend(n)
        any_right = any(x.finish == "stop" and last_letter(x.text) == "b" for x in lines)
        assert (posterior.best == "b") == any_right
        hits += any_right
    assert binomtest(hits, 300, 1 - (1 - p) ** n).pvalue > 1e-6


async def test_best_of_n_by_likelihood_takes_the_best_line():
    posterior = await think(question(), toy(), "best-of-n", "likelihood", n=40)
    root = await toy().root(PROMPT)
    lines = [x for x in await root.extend(40) if x.finish == "stop" and last_letter(x.text)]
    best = max(lines, key=lambda x: sum(x.log_probs) / len(x.tokens))
    assert posterior.best == last_letter(best.text)
    assert posterior.best_line.text == best.text
    assert sum(posterior.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("width", [1, 4, 16])
async def test_sample_until_verified_stops_at_the_first_accepted_line(width):
    """Whatever is in flight is neither judged nor written to its end, and no shorter line comes before its turn."""
    lm = toy(seed=4)
    posterior = await think(question(), lm, "sample-until-verified", "exact", n=64, width=width)
    root = await toy(seed=4).root(PROMPT)
    lines = await root.extend(64)
    first = next(i for i, x in enumerate(lines) if x.finish == "stop" and last_letter(x.text) == "b")
    assert posterior.best == "b"
    assert posterior.confidence == 1
    assert posterior.attempts == first + 1
    assert posterior.stopped == "verified"
    assert lm.ledger.bill.verifier_calls == first + 1
    judged = sum(len(x.tokens) for x in lines[: first + 1])
    assert judged <= lm.ledger.bill.decoded <= judged + 2 * (width - 1) * max(len(x.tokens) for x in lines)
    assert width > 1 or lm.ledger.bill.decoded == judged


async def test_sample_until_verified_falls_back_on_the_majority():
    posterior = await think(question(right="never"), toy(), "sample-until-verified", "exact", n=20)
    majority = await think(question(), toy(), "majority-vote", n=20)
    assert posterior.weights == majority.weights
    assert posterior.stopped == "nothing verified"
    assert posterior.attempts == 20


@pytest.mark.parametrize("name", NAMES)
async def test_anytime_under_every_token_budget(name):
    lm = toy()
    await think(question("never"), lm, name, verifier_for(name), **({} if name == "greedy" else {"n": 6}))
    whole = lm.ledger.bill.tokens
    assert whole > 4
    answered = []
    for tokens in range(whole + 2):
        lm = toy(Budget(tokens=tokens))
        posterior = await think(
            question("never"), lm, name, verifier_for(name), **({} if name == "greedy" else {"n": 6})
        )
        assert posterior.cost.tokens <= tokens
        assert posterior.cost == lm.ledger.bill or posterior.cost.tokens == lm.ledger.bill.tokens
        answered.append(posterior.best is not None)
        if tokens < 3:  # two of prompt: nothing can be written
            assert posterior.best is None
            assert posterior.stopped != "finished"
    if name == "majority-vote":
        assert answered[-1], "with the whole budget there is an answer"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [Budget(flops=0), Budget(flops=9), Budget(seconds=0), Budget(tokens=0)])
async def test_anytime_under_other_budgets(name, limit):
    lm = toy(limit)
    posterior = await think(question(), lm, name, verifier_for(name))
    assert posterior.cost.flops <= (limit.flops if limit.flops is not None else math.inf) or limit.flops is None


@pytest.mark.parametrize("name", NAMES)
async def test_anytime_on_the_engine(name, make_tiny_model):
    """Every budget from 0 upward on the real engine: within budget in tokens, no page left behind, never an error."""
    model = make_tiny_model()
    q = Question("say it", lambda text: text[:1] or None, lambda answer: False)
    one_step = 24
    for tokens in [*range(12), 17, 23, 40, 77]:
        lm = model.session(Ledger(Budget(tokens=tokens)))
        options = {"max_tokens": 6} if name == "greedy" else {"n": 4, "max_tokens": 6}
        posterior = await think(q, lm, name, verifier_for(name), **options)
        assert posterior.cost.tokens <= tokens
    flops_step = model.engine.costs.positions(0, one_step) + one_step * model.engine.costs.head
    for flops in [0, 1, 10**5, 10**6, 10**7]:
        lm = model.session(Ledger(Budget(flops=flops)))
        options = {"max_tokens": 6} if name == "greedy" else {"n": 4, "max_tokens": 6}
        posterior = await think(q, lm, name, verifier_for(name), **options)
        assert posterior.cost.flops <= flops + flops_step
    await asyncio.sleep(0)
    assert model.thread.call(lambda: model.engine.cache.num_leased(model.engine.scheduler.leases())) == 0


@pytest.mark.parametrize("name", NAMES)
async def test_cancelling_the_ledger_returns_what_there_is(name):
    lm = toy()
    lm.ledger.cancel()
    posterior = await think(question(), lm, name, verifier_for(name))
    assert posterior.best is None
    assert posterior.stopped in ("budget", "nothing verified", "no line passed the verifier")


@pytest.mark.parametrize("name", NAMES)
async def test_same_seed_same_result_beside_other_work(name, tiny_model):
    q = Question("what now", lambda text: text[:1] or None, lambda answer: answer == "never")
    options = {"max_tokens": 8} if name == "greedy" else {"n": 6, "max_tokens": 8}

    async def once():
        return await think(q, tiny_model.session(sampling=Sampling(seed=5)), name, verifier_for(name), **options)

    alone = await once()
    noise = [
        think(Question(f"other {i}", lambda text: None), tiny_model.session(), "majority-vote", n=7, max_tokens=9)
        for i in range(4)
    ]
    beside, *_ = await asyncio.gather(once(), *noise)
    assert [(c.answer, c.text) for c in alone.candidates] == [(c.answer, c.text) for c in beside.candidates]
    assert alone.weights == pytest.approx(beside.weights, rel=1e-4)
    assert alone.cost.decoded == beside.cost.decoded


async def test_budget_buys_finished_lines():
    """Under a budget for about six lines, lines are finished rather than all started and cut."""
    whole = toy()
    await think(question(), whole, "majority-vote", n=64)
    per_line = whole.ledger.bill.decoded / 64
    posterior = await think(question(), toy(Budget(tokens=2 + 8 * per_line)), "majority-vote", n=64)
    finished = sum(t.finish in ("stop", "length") for t in posterior.tree.walk() if t.tokens)
    assert posterior.attempts < 20
    assert finished >= 3


async def test_exact_posterior_matches_enumeration():
    law = exact_posterior(toy(), PROMPT, LONGEST, last_letter)
    assert sum(law.values()) == pytest.approx(1)


async def test_mistakes_are_user_errors():
    with pytest.raises(UnknownNameError, match=r"Known: .*best-of-n, .*greedy, .*majority-vote"):
        await think(question(), toy(), "majorty-vote")
    with pytest.raises(UserError, match="has no option k; it has: n, max_tokens"):
        await think(question(), toy(), "majority-vote", k=3)
    with pytest.raises(UserError, match="n=0"):
        await think(question(), toy(), "majority-vote", n=0)
    with pytest.raises(CapabilityError, match="needs a verifier"):
        await think(question(), toy(), "sample-until-verified")
    lm = toy()
    with pytest.raises(CapabilityError, match="no task family recognises"):
        await think(Question(PROMPT, last_letter), lm, "best-of-n", "exact", n=2)
    assert lm.ledger.bill.tokens == 0, "a strategy that cannot be judged spent compute first"


async def test_every_method_states_what_it_promises():
    for name in NAMES:
        found = STRATEGIES.get(name)
        assert found.name == name
        assert found.family
        assert found.summary
        assert found.promise
        assert found.paper
        assert found.run.__doc__
