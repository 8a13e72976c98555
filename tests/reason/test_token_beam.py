"""Beams over tokens against enumeration, and groups against a plain computation from the model's law."""

import math
from collections import Counter

import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.question import Question
from outthink.lm.toy import ToyLM, exact_posterior, random_law
from outthink.reason.search import token_beam
from outthink.reason.solve import think

PROMPT, LONGEST = "ab", 5


def toy(seed=0, alphabet="ab", budget=None):
    return ToyLM(random_law(seed, len(alphabet) + 1), alphabet, Ledger(budget), context=len(PROMPT) + LONGEST)


QUESTION = Question(PROMPT, lambda text: text or None)


def ended(lm):
    """Every line that ends by itself, with its probability; cut ones give no answer here."""
    return {text: math.exp(p) for text, p, finish in lm.enumerate(PROMPT, LONGEST) if finish == "stop" and text}


@pytest.mark.parametrize("seed", range(6))
async def test_a_beam_of_full_width_is_the_model_s_own_law(seed):
    posterior = await think(QUESTION, toy(seed), "token-beam", n=2**LONGEST + 2**LONGEST)
    assert posterior.weights == pytest.approx(ended(toy(seed)))
    enumerated = exact_posterior(toy(seed), PROMPT, LONGEST, lambda text: text or None)
    assert posterior.best == max(ended(toy(seed)), key=enumerated.__getitem__)
    assert posterior.confidence == pytest.approx(max(ended(toy(seed)).values()))
    lines = {c.text: c.log_weight for c in posterior.candidates}
    assert lines == pytest.approx({text: math.log(p) for text, p in ended(toy(seed)).items()})


@pytest.mark.parametrize("penalty", [0.3, 1.0])
async def test_length_penalty_compares_lines_by_the_formula(penalty):
    for seed in range(6):
        posterior = await think(QUESTION, toy(seed), "token-beam", n=64, length_penalty=penalty)
        worth = {t: math.log(p) / ((5 + len(t) + 1) / 6) ** penalty for t, p in ended(toy(seed)).items()}
        assert posterior.best == max(worth, key=worth.__getitem__)
        assert {c.text: c.log_weight for c in posterior.candidates} == pytest.approx(worth)


def plain_groups(lm, n, groups, penalty):
    """Group beam search from the law alone: lines as token tuples, no branches. Returns the ended lines."""
    start, end = lm.encode(PROMPT), lm.end
    live, places, over = [[((), 0.0)] for _ in range(groups)], [n // groups] * groups, {}
    for _ in range(LONGEST):
        taken = Counter()
        for g in range(groups):
            steps = []
            for line, p in live[g]:
                law = lm.log_probs(start + line)
                order = sorted(range(len(law)), key=lambda t, law=law: -law[t])
                steps += [((*line, t), p + float(law[t])) for t in order]
            steps.sort(key=lambda s: -(s[1] - penalty * taken[s[0][-1]]))
            best = steps[: places[g]]
            taken.update(line[-1] for line, _ in best)
            over |= {line: p for line, p in best if line[-1] == end}
            live[g] = [(line, p) for line, p in best if line[-1] != end]
            places[g] -= len(best) - len(live[g])
    return {lm.spell(line): math.exp(p) for line, p in over.items() if len(line) > 1}


@pytest.mark.parametrize(("n", "groups", "penalty"), [(4, 1, 0.0), (4, 2, 0.0), (4, 2, 0.7), (6, 3, 2.0), (3, 3, 50.0)])
async def test_groups_choose_as_the_plain_computation_does(n, groups, penalty):
    found = 0
    for seed in range(10):
        lm = toy(seed, "abc")
        posterior = await think(QUESTION, lm, "diverse-beam", n=n, groups=groups, penalty=penalty)
        expected = plain_groups(toy(seed, "abc"), n, groups, penalty)
        if expected:  # else a line was written to its end, so that there is some answer
            assert posterior.weights == pytest.approx(expected)
            found += 1
        assert math.fsum(posterior.weights.values()) <= 1 + 1e-9
    assert found > 3


async def test_groups_without_a_penalty_are_one_beam_of_their_size():
    for seed in range(6):
        apart = await think(QUESTION, toy(seed), "diverse-beam", n=6, groups=3, penalty=0.0)
        lm = toy(seed)
        one = await think(QUESTION, lm, "token-beam", n=2)
        assert apart.weights == pytest.approx(one.weights)
        assert apart.cost.decoded == one.cost.decoded, "lines that groups share were computed twice"


async def test_a_penalty_brings_more_different_first_tokens():
    """And the check has power: choosing without it gives fewer."""

    async def first_tokens(penalty):
        found = 0
        for seed in range(8):
            lm = toy(seed, "abcd")
            posterior = await think(QUESTION, lm, "diverse-beam", n=4, groups=4, penalty=penalty)
            found += len({c.text[:1] for c in posterior.candidates})
        return found

    assert await first_tokens(3.0) > await first_tokens(0.0)


async def test_choosing_in_ignorance_of_other_groups_is_caught(monkeypatch):
    choose = token_beam.choose
    monkeypatch.setattr(token_beam, "choose", lambda live, places, _, length: choose(live, places, 0.0, length))
    with pytest.raises(AssertionError):
        await test_groups_choose_as_the_plain_computation_does(6, 3, 2.0)


async def test_shares_are_bounds_under_every_budget():
    """Whatever was found, an answer's share is at most its probability under the model, if no line was cut short."""
    law = ended(toy(3))
    for tokens in range(60):
        posterior = await think(QUESTION, toy(3, budget=Budget(tokens=tokens)), "token-beam", n=6)
        for answer, share in posterior.weights.items():
            assert share <= law[answer] + 1e-6


async def test_each_layer_costs_a_draw_a_line_and_one_for_each_other_token():
    """n live lines: n draws to see their laws, and at most n more for tokens that those draws did not give."""
    lm = toy(0, "abc")
    await think(QUESTION, lm, "token-beam", n=4)
    assert lm.ledger.bill.decoded <= LONGEST * 2 * 4
    assert lm.ledger.bill.prefilled == len(PROMPT)
    texts = Counter(tuple(t.text for t in thought.line()) for thought in lm.tree.walk() if thought.tokens)
    assert max(texts.values()) == 1, "a token was drawn twice at one place"
