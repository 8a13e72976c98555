"""The random numbers: fixed for ever, uniform, and independent across keys, counters and seeds.

Seeds are fixed; a good generator fails each statistical check with probability 1e-6.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2, kstest, norm

from outthink.core.rng import mix, uniforms

NUM, ERROR_RATE = 40_000, 1e-6


def stream(keys: NDArray[np.uint64] | int, counters: NDArray[np.uint64] | int) -> NDArray[np.float64]:
    keys, counters = np.broadcast_arrays(np.asarray(keys, np.uint64), np.asarray(counters, np.uint64))
    return uniforms(keys, counters)


STREAMS = {
    "positions of one branch": lambda: stream(mix(0, 1), np.arange(NUM)),
    "siblings at one position": lambda: stream([mix(7, mix(3, i)) for i in range(NUM)], 20),
    "seeds of one branch": lambda: stream([mix(seed, 12345) for seed in range(NUM)], 20),
    "a path ever deeper": lambda: stream(deeper(), np.arange(NUM)),
}


def deeper() -> list[int]:
    keys = [0]
    while len(keys) < NUM:
        keys.append(mix(keys[-1], 0))
    return keys


def correlation_p(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """p-value of the correlation of two sequences that should be independent."""
    return float(2 * norm.sf(abs(np.corrcoef(a, b)[0, 1]) * math.sqrt(len(a))))


def pairs_p(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """p-value of the counts of pairs in a 16 x 16 grid."""
    counts = np.bincount((a * 16).astype(int) * 16 + (b * 16).astype(int), minlength=256)
    expected = len(a) / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


@pytest.mark.parametrize("name", STREAMS)
def test_uniform(name: str) -> None:
    numbers = STREAMS[name]()
    assert numbers.min() > 0 and numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > ERROR_RATE
    assert abs(numbers.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / NUM)
    assert len(np.unique(numbers)) == NUM


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbours_are_independent(name: str, lag: int) -> None:
    numbers = STREAMS[name]()
    assert correlation_p(numbers[:-lag], numbers[lag:]) > ERROR_RATE
    assert pairs_p(numbers[:-lag], numbers[lag:]) > ERROR_RATE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda i: (mix(0, 0), i), lambda i: (mix(0, 1), i)),
        (lambda i: (mix(0, 0), i), lambda i: (mix(1, 0), i)),
        (lambda i: (mix(0, mix(5, 0)), i), lambda i: (mix(0, mix(5, 1)), i)),
        (lambda i: (mix(0, i), 9), lambda i: (mix(0, i), 10)),
        (lambda i: (mix(0, i), i), lambda i: (mix(0, i + 1), i + 1)),
        (lambda i: (mix(0, mix(i, 0)), 3), lambda i: (mix(0, mix(i, 1)), 3)),
    ],
)
def test_streams_are_independent_of_each_other(one, other) -> None:
    a, b = (stream(*map(list, zip(*map(make, range(NUM)), strict=True))) for make in (one, other))
    assert correlation_p(a, b) > ERROR_RATE
    assert pairs_p(a, b) > ERROR_RATE


def test_a_weak_generator_is_noticed() -> None:
    def weak(key: int) -> NDArray[np.float64]:
        """Weyl's sequence: uniform, and the next number follows from the last."""
        return (key * 0.1234567 + np.arange(NUM) * 0.6180339887498949) % 1.0

    assert kstest(weak(1), "uniform").pvalue > ERROR_RATE
    assert pairs_p(weak(1)[:-1], weak(1)[1:]) < ERROR_RATE
    assert pairs_p(weak(1), weak(2)) < ERROR_RATE


def test_every_bit_is_fair() -> None:
    bits = (stream(mix(0, 0), np.arange(NUM)) * 2.0**52).astype(np.uint64)
    for bit in range(52):
        ones = int((bits >> np.uint64(bit) & np.uint64(1)).sum())
        assert abs(ones - NUM / 2) < 5.5 * math.sqrt(NUM / 4), bit


def test_keys_of_a_large_tree_are_distinct() -> None:
    level, keys = [mix(0, 0)], set()
    for _ in range(5):
        level = [mix(key, child) for key in level for child in range(9)]
        keys |= set(level)
    assert len(keys) == sum(9**d for d in range(1, 6))


def test_the_numbers_are_fixed_for_ever() -> None:
    """SplitMix64 by its definition, in whole numbers: saved seeds give the same text in every release."""
    mask = 2**64 - 1

    def finish(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    for key, counter in ((0, 0), (1, 0), (mask, 3), (123456789, 2**40), (mask, mask - 1)):
        z = finish((key + 0x9E3779B97F4A7C15 * (counter + 1)) & mask)
        assert mix(key, counter) == z
        assert stream(key, counter) == ((finish(z) >> 12) + 0.5) * 2.0**-52
    # The first outputs of SplitMix64 with seed 1234567, as published with the reference implementation.
    assert [mix(1234567, i) for i in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
def test_a_number_depends_on_its_own_key_and_counter_alone(pairs: list[tuple[int, int]]) -> None:
    keys, counters = (np.array(x, dtype=np.uint64) for x in zip(*pairs, strict=True))
    together = uniforms(keys, counters)
    assert together.tolist() == [uniforms(keys[i : i + 1], counters[i : i + 1])[0] for i in range(len(pairs))]
    assert ((together > 0) & (together < 1)).all()


@given(st.integers(-(2**70), 2**70), st.integers(-(2**70), 2**70))
def test_any_whole_numbers_make_a_key(key: int, value: int) -> None:
    assert 0 <= mix(key, value) < 2**64
