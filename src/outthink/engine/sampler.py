"""Draws the next token of every row at once, by inverting the distribution function at one number per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outthink.core.rng import mix, uniforms
from outthink.core.sampling import Sampling

Floats = NDArray[np.float64]
MOST_SCORE = 1e38  # however large a penalty makes it: more would be an infinity, and two of them no number
BLOCK_ELEMENTS = 1 << 21  # about six arrays of float64 of this size are alive at a time


@dataclass(frozen=True)
class Row:
    """One draw to be made: how, keyed by which branch, at which position, after which tokens.

    ``prompt`` and ``generated`` are read only where ``sampling.needs_history``. ``allowed``: which tokens may be drawn,
    those beyond its end not; None for all.
    """

    sampling: Sampling
    key: int
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    allowed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Draws:
    """``tokens`` [R]; ``log_probs`` [R] under the model itself; ``sample_log_probs`` [R] under the distribution that
    they were drawn from; ``top``: for each row the (token, model log-probability) pairs asked for, likeliest first.
    """

    tokens: NDArray[np.int64]
    log_probs: Floats
    sample_log_probs: Floats
    top: list[list[tuple[int, float]]]


def sample(logits: Sequence[NDArray[np.float32]], rows: Sequence[Row]) -> Draws:
    """Draw one token for each row of logits [V]; row r depends on ``logits[r]`` and ``rows[r]`` alone.

    Works through so many rows at a time that its own memory stays below about 100 MB.
    """
    size = max(1, BLOCK_ELEMENTS // len(logits[0]))
    parts = [_sample(np.stack(logits[i : i + size]), rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(parts) == 1:
        return parts[0]
    return Draws(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
        np.concatenate([part.sample_log_probs for part in parts]),
        [top for part in parts for top in part.top],
    )


def _sample(logits: NDArray[np.float32], rows: Sequence[Row]) -> Draws:
    model = log_softmax(logits.astype(np.float64))
    plain = all(map(_is_model_itself, {id(row.sampling): row.sampling for row in rows}.values()))
    plain = plain and all(row.allowed is None for row in rows)
    law = np.exp(model) if plain else sampling_law(logits, rows)  # the same numbers, sooner
    keys = np.array([mix(int(row.sampling.seed), row.key) for row in rows], dtype=np.uint64)
    positions = np.array([row.position for row in rows], dtype=np.uint64)
    cumulative = np.cumsum(law, axis=1)
    point = uniforms(keys, positions) * cumulative[:, -1]
    tokens = np.minimum((cumulative <= point[:, None]).sum(axis=1), logits.shape[1] - 1)
    index = np.arange(len(rows))
    with np.errstate(divide="ignore"):
        drawn = np.log(law[index, tokens])
    top = [likeliest(model[r], row.sampling.top_logprobs) for r, row in enumerate(rows)]
    return Draws(tokens, model[index, tokens], drawn, top)


def _is_model_itself(sampling: Sampling) -> bool:
    """Whether nothing changes the model's own distribution."""
    s = sampling
    filtered = s.top_k or s.top_p < 1 or s.min_p > 0
    return s.temperature == 1 and not (filtered or s.logit_bias or s.needs_history)


def sampling_law(logits: NDArray[np.float32], rows: Sequence[Row]) -> Floats:
    """The distributions [R, V] that `sample` draws from, each summing to 1; see `Sampling` for the order of options."""
    scores = logits.astype(np.float64)
    for r, row in enumerate(rows):
        _adjust(scores[r], row)
    temperature = np.array([row.sampling.temperature for row in rows])
    greedy = temperature == 0
    below_largest = scores - scores.max(axis=1, keepdims=True)  # so that no temperature makes infinities of them
    with np.errstate(over="ignore"):
        law = np.exp(log_softmax(below_largest / np.where(greedy, 1.0, temperature)[:, None]))
    filtered = [
        r for r, row in enumerate(rows) if row.sampling.top_k or row.sampling.top_p < 1 or row.sampling.min_p > 0
    ]
    if filtered:
        law[filtered] = _filter(law[filtered], [rows[r].sampling for r in filtered])
    if greedy.any():
        law[greedy] = 0.0
        law[greedy, scores[greedy].argmax(axis=1)] = 1.0
    return law


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities of the last axis, in nats."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _adjust(scores: Floats, row: Row) -> None:
    """Apply what is allowed, bias and penalties to one row of scores [V], in place."""
    s = row.sampling
    if row.allowed is not None:
        size = min(len(row.allowed), len(scores))
        scores[:size][~row.allowed[:size]] = -np.inf
        scores[size:] = -np.inf
    for token, bias in s.logit_bias.items():
        scores[token] += bias
    if not s.needs_history:
        return
    counts = np.bincount(np.asarray(row.generated, dtype=np.int64), minlength=len(scores))[: len(scores)]
    if s.repetition_penalty != 1:
        seen = counts > 0
        seen[np.asarray(row.prompt, dtype=np.int64)] = True
        old = scores[seen]
        with np.errstate(over="ignore"):
            new = np.where(old > 0, old / s.repetition_penalty, old * s.repetition_penalty)
        scores[seen] = np.where(np.isfinite(old), np.clip(new, -MOST_SCORE, MOST_SCORE), old)
    scores -= s.presence_penalty * (counts > 0) + s.frequency_penalty * counts


def _filter(law: Floats, samplings: Sequence[Sampling]) -> Floats:
    """Keep the top k, then the smallest likeliest set of mass top_p, then what reaches min_p of the likeliest."""
    size = law.shape[1]
    order = np.argsort(-law, axis=1, kind="stable")
    ranked = np.take_along_axis(law, order, axis=1)
    keep = np.arange(size)[None, :] < np.array([s.top_k or size for s in samplings])[:, None]
    ranked = np.where(keep, ranked, 0.0)
    ranked /= ranked.sum(axis=1, keepdims=True)
    before = np.cumsum(ranked, axis=1) - ranked
    keep &= before < np.array([s.top_p if s.top_p < 1 else np.inf for s in samplings])[:, None]
    keep &= ranked >= np.array([s.min_p for s in samplings])[:, None] * ranked[:, :1]
    ranked = np.where(keep, ranked, 0.0)
    result = np.empty_like(law)
    np.put_along_axis(result, order, ranked / ranked.sum(axis=1, keepdims=True), axis=1)
    return result


def likeliest(log_probs: Floats, count: int) -> list[tuple[int, float]]:
    """The ``count`` tokens with the largest of ``log_probs`` [V], each with it, largest first; ties: lowest first."""
    if not count:
        return []
    order = np.argsort(-log_probs, kind="stable")[:count]
    return [(int(t), float(log_probs[t])) for t in order]
