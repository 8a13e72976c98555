"""The compiled sampler draws what the Python one draws, which is its specification."""

import itertools

import numpy as np
import pytest

from cpu_cases import make_config, make_model
from outthink.core.rng import mix
from outthink.core.sampling import Sampling
from outthink.engine.sampler import Row, sample
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.step import Laws

ISAS = extension.compiled().usable_isas() if extension.compiled() else []
# No share of equally likely tokens is exactly a top_p: there, rounding would decide.
OPTIONS = [
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(temperature=0.05),
    Sampling(temperature=2.5),
    Sampling(top_k=1),
    Sampling(top_k=7, temperature=1.5),
    Sampling(top_k=100_000),
    Sampling(top_p=0.5071),
    Sampling(top_p=0.999, temperature=3.0),
    Sampling(min_p=0.1),
    Sampling(min_p=1.0),
    Sampling(top_k=30, top_p=0.8313, min_p=0.02, temperature=0.7),
]
ROWS = 240  # for each of these, as many draws as there are rows


def make_backend(vocab_size: int, isa: str = "auto", threads: int = 1) -> CpuBackend:
    return CpuBackend(make_model(make_config(vocab_size=vocab_size)), num_pages=2, threads=threads, isa=isa)


def make_logits(vocab_size: int, seed: int = 0) -> np.ndarray:
    """Rows of every sharpness, some with ties, some with a token that is all but certain."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, vocab_size)) * rng.choice([0.1, 1.0, 4.0, 30.0], size=(ROWS, 1))
    logits[::5] = np.round(logits[::5])
    logits[1::7, 0] += 200.0
    return logits.astype(np.float32)


def make_laws(sampling: Sampling) -> Laws:
    columns = [np.full(ROWS, value, float) for value in (sampling.temperature, sampling.top_p, sampling.min_p)]
    keys = np.array([mix(sampling.seed, 1000 + row) for row in range(ROWS)], np.uint64)
    return Laws(keys, *columns, np.full(ROWS, sampling.top_k or 0, np.int32))


def positions() -> np.ndarray:
    return np.arange(ROWS, dtype=np.int32) * 3


def by_hand(logits: np.ndarray, sampling: Sampling):
    return sample(logits, [Row(sampling, 1000 + r, 3 * r) for r in range(ROWS)])


@pytest.mark.parametrize("vocab_size", [1, 7, 64, 65, 604])
def test_every_option_draws_what_the_python_sampler_draws(vocab_size: int) -> None:
    backend, logits = make_backend(vocab_size), make_logits(vocab_size)
    for sampling in OPTIONS:
        tokens, log_probs, sample_log_probs = backend.sample(logits, positions(), make_laws(sampling))
        expected = by_hand(logits, sampling)
        assert tokens.tolist() == expected.tokens.tolist(), sampling
        assert np.allclose(log_probs, expected.log_probs, rtol=0, atol=1e-11)
        assert np.allclose(sample_log_probs, expected.sample_log_probs, rtol=0, atol=1e-11)


def test_a_sampler_with_another_random_number_is_noticed() -> None:
    logits = make_logits(604)
    tokens, *_ = make_backend(604).sample(logits, positions() + 1, make_laws(Sampling()))
    assert tokens.tolist() != by_hand(logits, Sampling()).tokens.tolist()


@pytest.mark.parametrize("sampling", OPTIONS)
def test_instruction_sets_threads_and_company_do_not_matter(sampling: Sampling) -> None:
    logits, laws = make_logits(130), make_laws(sampling)
    results = []
    for isa, threads in itertools.product(ISAS, (1, 3)):
        backend = make_backend(130, isa, threads)
        results.append(np.array(backend.sample(logits, positions(), laws)))
        rows = range(0, ROWS, 11)
        one = [[array[r : r + 1].copy() for array in vars(laws).values()] for r in rows]
        alone = [
            backend.sample(logits[r : r + 1], positions()[r : r + 1], Laws(*o)) for r, o in zip(rows, one, strict=True)
        ]
        assert np.array_equal(np.array(alone)[:, :, 0].T, results[-1][:, ::11])
    assert all(np.array_equal(result, results[0]) for result in results)


def test_draws_follow_the_law() -> None:
    """Of 24,000 draws from four tokens, each share is within five standard deviations: wrongly one time in 400,000."""
    law = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.repeat(np.log(law).astype(np.float32)[None], ROWS, axis=0)
    backend, counts, rounds = make_backend(4), np.zeros(4), 100
    for turn in range(rounds):
        tokens, *_ = backend.sample(logits, positions() + 100_000 * turn, make_laws(Sampling()))
        counts += np.bincount(tokens, minlength=4)
    drawn = ROWS * rounds
    assert (np.abs(counts / drawn - law) < 5 * np.sqrt(law * (1 - law) / drawn)).all()


def test_what_cannot_be_drawn_from_is_refused() -> None:
    backend, laws = make_backend(7), make_laws(Sampling())
    for bad in (np.nan, np.inf, -np.inf):
        logits = make_logits(7)
        logits[5, 6] = bad
        with pytest.raises(ValueError, match="Row 5 has logits that are not finite"):
            backend.sample(logits, positions(), laws)
    for name, value in (("temperature", -1.0), ("temperature", np.nan), ("top_p", 0.0), ("min_p", 1.5), ("top_k", -1)):
        broken = {**vars(laws), name: np.full_like(getattr(laws, name), value)}
        with pytest.raises(ValueError, match=name):
            backend.sample(make_logits(7), positions(), Laws(**broken))
    with pytest.raises(ValueError, match="one entry for each row"):
        backend.sample(make_logits(7)[:-1], positions(), laws)
    with pytest.raises(ValueError, match="num_outputs"):
        backend.sample(make_logits(9), positions(), laws)
