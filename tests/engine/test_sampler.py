"""Every sampling option against the same distribution computed in another way, exactly; then the draws against it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import outthink.engine.sampler as sampler
from outthink.core.rng import mix
from outthink.core.sampling import Sampling
from outthink.engine.sampler import Row, log_softmax, sample, sampling_law

VOCAB = 40
PROMPT, GENERATED = [3, 4, 4, 9, 12], [4, 9, 9, 9, 30, 31]
Law = Callable[[NDArray[np.float32], Sequence[Row]], NDArray[np.float64]]

OPTIONS = [
    Sampling(),
    Sampling(temperature=0.3),
    Sampling(temperature=2.5),
    Sampling(top_k=1),
    Sampling(top_k=7),
    Sampling(top_k=VOCAB + 5),
    Sampling(top_p=0.9),
    Sampling(top_p=0.5),
    Sampling(top_p=1e-6),
    Sampling(min_p=0.05),
    Sampling(min_p=1.0),
    Sampling(repetition_penalty=1.5),
    Sampling(repetition_penalty=0.7),
    Sampling(presence_penalty=0.8),
    Sampling(frequency_penalty=0.5),
    Sampling(presence_penalty=-0.4, frequency_penalty=-0.2),
    Sampling(logit_bias={4: 2.0, 9: -np.inf, 39: -3.0}),
    Sampling(temperature=0.6, top_k=12, top_p=0.8, min_p=0.02),
    Sampling(temperature=1.7, top_k=20, top_p=0.7, min_p=0.1, repetition_penalty=1.3),
    Sampling(
        temperature=0.8,
        top_k=25,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={0: 1.5, 4: 4.0, 30: -1.0},
    ),
]


def make_logits(seed: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(VOCAB)).astype(np.float32)


def make_row(sampling: Sampling, key: int = 0, position: int = 0) -> Row:
    return Row(sampling, key, position, PROMPT, GENERATED)


def oracle(logits: NDArray[np.float32], s: Sampling) -> NDArray[np.float64]:
    """The distribution by the processors of transformers; bias and counted penalties by their formulas."""
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for token, bias in s.logit_bias.items():
        scores[0, token] += bias
    if s.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(s.repetition_penalty)(torch.tensor([PROMPT + GENERATED]), scores)
    for token in set(GENERATED):
        scores[0, token] -= s.presence_penalty + s.frequency_penalty * GENERATED.count(token)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(s.temperature)])
    if s.top_k is not None:
        warpers.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        warpers.append(TopPLogitsWarper(s.top_p))
    if s.min_p > 0:
        warpers.append(MinPLogitsWarper(s.min_p))
    return torch.softmax(warpers(torch.zeros(1, 0, dtype=torch.long), scores), dim=-1)[0].numpy()


def distance(law: Law, options: Sequence[Sampling], seeds: int) -> float:
    """The largest difference of a probability from the oracle's; all rows of a seed in one batch."""
    worst = 0.0
    for seed in range(seeds):
        batch = np.stack([make_logits(seed * 100 + i) for i in range(len(options))])
        laws = law(batch, [make_row(s) for s in options])
        worst = max(worst, *(np.abs(laws[i] - oracle(batch[i], s)).max() for i, s in enumerate(options)))
    return worst


@pytest.mark.parametrize("index", range(len(OPTIONS)))
def test_each_option_equals_transformers(index: int) -> None:
    assert distance(sampling_law, [OPTIONS[index]], seeds=25) < 1e-12


def test_options_mixed_in_one_batch_equal_transformers() -> None:
    assert distance(sampling_law, OPTIONS, seeds=10) < 1e-12


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Sampling,
        temperature=st.floats(0.05, 5),
        top_k=st.none() | st.integers(1, VOCAB + 3),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.5, 2),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5), max_size=3),
    ),
    st.integers(0, 1000),
)
def test_any_mixture_of_options_equals_transformers(s: Sampling, seed: int) -> None:
    logits = make_logits(seed)
    law, expected = sampling_law(logits[None], [make_row(s)])[0], oracle(logits, s)
    if set(np.flatnonzero(law)) != set(np.flatnonzero(expected)):  # a threshold met to the last bit, if anything
        edge = np.minimum(law[law > 0].min(), expected[expected > 0].min())
        full = sampling_law(logits[None], [make_row(replace(s, top_p=1.0, min_p=0.0))])[0]
        near_top_p = np.abs(np.cumsum(np.sort(full)[::-1]) - s.top_p).min() < 1e-12
        near_min_p = np.abs(full / full.max() - s.min_p).min() < 1e-12
        assert near_top_p or near_min_p, (s, edge)
    else:
        assert np.abs(law - expected).max() < 1e-9


def top_p_one_short(law: NDArray[np.float64], samplings: Sequence[Sampling]) -> NDArray[np.float64]:
    """Drops the token that reaches the mass instead of keeping it."""
    result = law.copy()
    for r, s in enumerate(samplings):
        order = np.argsort(-law[r], kind="stable")
        over = np.cumsum(law[r][order]) > s.top_p
        over[0] = False
        result[r, order[over]] = 0
    return result / result.sum(axis=1, keepdims=True)


def wrong_order(logits: NDArray[np.float32], rows: Sequence[Row]) -> NDArray[np.float64]:
    """Temperature before penalties and bias."""
    scaled = np.stack([x / row.sampling.temperature for x, row in zip(logits, rows, strict=True)])
    return sampling_law(scaled, [replace(row, sampling=replace(row.sampling, temperature=1.0)) for row in rows])


def penalises_the_prompt(logits: NDArray[np.float32], rows: Sequence[Row]) -> NDArray[np.float64]:
    """Presence and frequency counted over prompt and text."""
    return sampling_law(logits, [replace(row, generated=[*row.prompt, *row.generated]) for row in rows])


def divides_every_logit(logits: NDArray[np.float32], rows: Sequence[Row]) -> NDArray[np.float64]:
    """A repetition penalty that raises negative logits."""
    copy = logits.copy()
    for r, row in enumerate(rows):
        copy[r, list({*row.prompt, *row.generated})] /= row.sampling.repetition_penalty
    return sampling_law(copy, [replace(row, sampling=replace(row.sampling, repetition_penalty=1.0)) for row in rows])


def min_p_of_one(logits: NDArray[np.float32], rows: Sequence[Row]) -> NDArray[np.float64]:
    """min_p as an absolute threshold."""
    law = sampling_law(logits, [replace(row, sampling=replace(row.sampling, min_p=0.0)) for row in rows])
    keep = law >= np.minimum(np.array([row.sampling.min_p for row in rows])[:, None], law.max(axis=1, keepdims=True))
    return np.where(keep, law, 0) / np.where(keep, law, 0).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("broken", "option"),
    [
        (wrong_order, Sampling(temperature=0.5, presence_penalty=0.8)),
        (wrong_order, Sampling(temperature=0.5, logit_bias={1: 2.0})),
        (penalises_the_prompt, Sampling(presence_penalty=0.8)),
        (penalises_the_prompt, Sampling(frequency_penalty=0.5)),
        (divides_every_logit, Sampling(repetition_penalty=1.5)),
        (min_p_of_one, Sampling(min_p=0.05)),
    ],
)
def test_a_broken_law_is_noticed(broken: Law, option: Sampling) -> None:
    assert distance(broken, [option], seeds=25) > 1e-3


def test_a_broken_top_p_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_filter", top_p_one_short)
    assert distance(sampling_law, [Sampling(top_p=0.9)], seeds=25) > 1e-3


def test_top_k_keeps_exactly_k_of_equals_the_lowest_ids_first() -> None:
    logits = np.random.default_rng(0).integers(0, 3, (1, 500)).astype(np.float32)
    law = sampling_law(logits, [Row(Sampling(top_k=40), 0, 0)])[0]
    assert np.flatnonzero(law).tolist() == sorted(range(500), key=lambda i: (-logits[0, i], i))[:40]


def test_top_p_is_the_smallest_set_that_reaches_the_mass() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]])).astype(np.float32)
    for top_p, kept in ((0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.88, 4), (0.999, 4)):
        assert (sampling_law(logits, [Row(Sampling(top_p=top_p), 0, 0)]) > 0).sum() == kept


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4), (0.250001, 2)])
def test_a_mass_that_is_met_exactly_is_enough(top_p: float, kept: int) -> None:
    law = sampling_law(np.zeros((1, 4), np.float32), [Row(Sampling(top_p=top_p), 0, 0)])[0]
    assert law.tolist() == [1 / kept] * kept + [0] * (4 - kept)


def test_min_p_keeps_the_likeliest_whatever_it_is() -> None:
    law = sampling_law(make_logits(1)[None], [make_row(Sampling(min_p=1.0))])[0]
    assert (law == 1).sum() == 1
    assert law.argmax() == make_logits(1).argmax()


def test_greedy_takes_the_largest_and_of_equals_the_lowest_id() -> None:
    logits = np.array([[1, 5, 5, 0], [7, 7, 7, 7]], np.float32)
    draws = sample(logits, [Row(Sampling(temperature=0), k, k) for k in range(2)])
    assert draws.tokens.tolist() == [1, 0]
    assert draws.sample_log_probs.tolist() == [0, 0]
    assert np.allclose(draws.log_probs, log_softmax(logits.astype(np.float64))[[0, 1], [1, 0]])


def test_greedy_applies_bias_and_penalties() -> None:
    logits = make_logits(2)[None]
    best = int(logits.argmax())
    banned = sample(logits, [Row(Sampling(temperature=0, logit_bias={best: -np.inf}), 0, 0)])
    assert banned.tokens[0] == np.argsort(-logits[0])[1]
    pushed = sample(logits, [Row(Sampling(temperature=0, frequency_penalty=100.0), 0, 0, [], [best])])
    assert pushed.tokens[0] == np.argsort(-logits[0])[1]


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1e-3, 1.0, 1e3])
def test_one_token_with_all_the_mass_is_always_drawn(temperature: float) -> None:
    bias = {token: -np.inf for token in range(VOCAB) if token != 17}
    rows = [Row(Sampling(temperature, logit_bias=bias, seed=s, top_p=0.9, top_k=3), s, s) for s in range(50)]
    draws = sample(np.stack([make_logits(s) for s in range(50)]), rows)
    assert set(draws.tokens.tolist()) == {17}
    assert set(draws.sample_log_probs.tolist()) == {0.0}


def test_the_smallest_temperatures_are_greedy_rather_than_undefined() -> None:
    logits = make_logits(5)[None]
    law = sampling_law(logits, [Row(Sampling(temperature=1e-310), 0, 0)])[0]
    assert law[logits.argmax()] == 1.0
    assert law.sum() == 1.0


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = np.full((1, VOCAB), -np.inf, np.float32)
    logits[0, [0, 5, VOCAB - 1]] = 0.0
    logits[0, VOCAB - 1] = -800.0  # probability 0 in double precision, and the last id
    rows = [Row(Sampling(seed=s), 0, s) for s in range(4000)]
    drawn = sample(np.repeat(logits, 4000, axis=0), rows).tokens
    assert set(drawn.tolist()) == {0, 5}


def test_log_probs_are_the_model_s_and_sample_log_probs_the_law_s() -> None:
    batch = np.stack([make_logits(i) for i in range(len(OPTIONS))])
    rows = [make_row(replace(s, seed=9, top_logprobs=i), key=i) for i, s in enumerate(OPTIONS)]
    draws = sample(batch, rows)
    model = torch.log_softmax(torch.tensor(batch, dtype=torch.float64), dim=1).numpy()
    law = sampling_law(batch, rows)
    for r, token in enumerate(draws.tokens):
        assert abs(draws.log_probs[r] - model[r, token]) < 1e-12
        assert abs(draws.sample_log_probs[r] - np.log(law[r, token])) < 1e-12
        ids, values = [t for t, _ in draws.top[r]], [x for _, x in draws.top[r]]
        assert ids == np.argsort(-model[r], kind="stable")[:r].tolist()
        assert np.allclose(values, np.sort(model[r])[::-1][:r], atol=1e-12)


def test_more_top_logprobs_than_tokens_are_all_tokens() -> None:
    [top] = sample(make_logits(0)[None], [Row(Sampling(top_logprobs=100), 0, 0)]).top
    assert len(top) == VOCAB
    assert abs(sum(np.exp(x) for _, x in top) - 1) < 1e-12


NUM_DRAWS, ERROR_RATE = 20_000, 1e-6


def chi_square_p(tokens: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """The p-value of counts of ``tokens`` under ``law``; cells expected fewer than 8 times are pooled."""
    counts, expected = np.bincount(tokens, minlength=len(law)), law * len(tokens)
    if counts[law == 0].any():
        return 0.0
    big = expected >= 8
    observed = np.append(counts[big], counts[~big].sum())
    hoped = np.append(expected[big], expected[~big].sum())
    statistic = (((observed - hoped) ** 2)[hoped > 0] / hoped[hoped > 0]).sum()
    return float(chi2.sf(statistic, max(1, (hoped > 0).sum() - 1)))


@pytest.mark.parametrize("across", ["keys", "positions", "seeds"])
@pytest.mark.parametrize("option", [OPTIONS[0], OPTIONS[17], OPTIONS[19]])
def test_draws_follow_the_law(option: Sampling, across: str) -> None:
    """Fixed seeds; a correct sampler fails each case with probability 1e-6."""
    logits = make_logits(11, scale=1.0)
    rows = {
        "keys": lambda i: make_row(option, key=mix(0, i), position=100),
        "positions": lambda i: make_row(option, key=mix(0, 0), position=i),
        "seeds": lambda i: make_row(replace(option, seed=i), key=mix(0, 0), position=100),
    }[across]
    tokens = sample(np.repeat(logits[None], NUM_DRAWS, axis=0), [rows(i) for i in range(NUM_DRAWS)]).tokens
    assert chi_square_p(tokens, oracle(logits, option)) > ERROR_RATE


def test_a_slightly_wrong_law_is_noticed() -> None:
    logits = make_logits(11, scale=1.0)
    rows = [make_row(Sampling(temperature=0.9), key=mix(0, i)) for i in range(NUM_DRAWS)]
    tokens = sample(np.repeat(logits[None], NUM_DRAWS, axis=0), rows).tokens
    assert chi_square_p(tokens, oracle(logits, Sampling())) < ERROR_RATE


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
def test_no_penalty_is_so_large_that_there_is_no_distribution(penalty: float) -> None:
    logits = np.linspace(-3, 3, VOCAB, dtype=np.float32)[None]
    bias = {PROMPT[0]: -np.inf, 20: 2.0}
    row = Row(Sampling(repetition_penalty=penalty, logit_bias=bias), 1, 5, PROMPT, GENERATED)
    [law] = sampling_law(logits, [row])
    assert np.isfinite(law).all() and law.sum() == pytest.approx(1) and law[PROMPT[0]] == 0
    likeliest = {9, 12, 4, 30, 31} if penalty < 1 else set(range(VOCAB)) - set(PROMPT) - set(GENERATED)
    assert int(law.argmax()) in likeliest
