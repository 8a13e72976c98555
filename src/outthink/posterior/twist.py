"""A twist that is learned: the expected potential of a line, by logistic regression on features of its beginning.

Among all functions of a prefix, the one that minimises the cross-entropy against the potentials (scaled to at most 1)
of lines that were drawn from the model is the mean potential given that prefix: the best possible twist. A linear one
is as near to it as its features allow, and whatever it gets wrong costs particles and never correctness.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from outthink.core.errors import CheckpointError, UserError
from outthink.posterior.potential import Prefix

Key = tuple[int, ...]
FORMAT, SUFFIX = 1, ".json"
BEGIN = -1  # stands before the first token, so that a long enough suffix is the whole prefix
ENDS_WITH, HOLDS, LENGTH = range(3)
RIDGES = (0.01, 0.1, 1.0, 10.0)
HELD_OUT = 5  # every so manieth line is kept out to choose the ridge, and put back


@dataclass(frozen=True)
class LinearTwist:
    """``log_scale`` plus the log of the logistic function of a sum of ``weights`` (nats), those of what a prefix shows:
    its last 0 to ``order`` tokens, which tokens it holds, and its length, to a power of two.

    With ``propose`` it also biases the next token towards what it thinks well of. ``tokenizer``: the fingerprint of
    what its tokens are ids of, where that is known.
    """

    weights: Mapping[Key, float]
    order: int
    log_scale: float = 0.0
    propose: bool = True
    tokenizer: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs of the model."""
        return ("token_ids", "biased_log_probs") if self.propose else ("token_ids",)

    def log_twist(self, prefix: Prefix) -> float:
        """See `Twist.log_twist`; it is always finite."""
        return self._worth(math.fsum(self.weights.get(key, 0.0) for key in features(prefix.tokens, self.order)))

    def log_biases(self, prefix: Prefix) -> Mapping[int, float]:
        """See `Twist.log_biases`: how much more each token seen in learning is worth than one that was not."""
        if not self.propose:
            return {}
        seen, weights = set(prefix.tokens), self.weights
        ends = (BEGIN, *prefix.tokens)[-self.order + 1 :] if self.order > 1 else ()
        common = math.fsum(weights.get((HOLDS, token), 0.0) for token in seen)
        common += weights.get((ENDS_WITH,), 0.0) + weights.get((LENGTH, (len(prefix.tokens) + 1).bit_length()), 0.0)
        unknown, biases = self._worth(common), dict[int, float]()
        for token in self._known:
            score = common if token in seen else common + weights.get((HOLDS, token), 0.0)
            if self.order:
                score += sum(weights.get((ENDS_WITH, *ends[i:], token), 0.0) for i in range(len(ends) + 1))
            biases[token] = self._worth(score) - unknown
        return biases

    @cached_property
    def _known(self) -> tuple[int, ...]:
        return tuple(sorted(key[1] for key in self.weights if key[0] == HOLDS))

    def _worth(self, score: float) -> float:
        return self.log_scale - float(np.logaddexp(0.0, -score))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        weights = [[*key, round(weight, 6)] for key, weight in sorted(self.weights.items())]
        fields = {"order": self.order, "log_scale": self.log_scale, "propose": self.propose}
        return {"format": FORMAT, "what": "twist", **fields, "tokenizer": self.tokenizer, "weights": weights}

    @classmethod
    def load(cls, file: Path) -> LinearTwist:
        """The twist that `to_json` was written of. Raises CheckpointError where the file is not there, or is none."""
        try:
            raw = json.loads(file.read_text("utf-8"))
            if (raw["what"], raw["format"]) != ("twist", FORMAT):
                raise ValueError(f"it is a {raw['what']} of format {raw['format']}")
            weights = {tuple(map(int, row[:-1])): float(row[-1]) for row in raw["weights"]}
            return cls(weights, int(raw["order"]), float(raw["log_scale"]), bool(raw["propose"]), raw["tokenizer"])
        except OSError as error:
            raise CheckpointError(
                f"Cannot read the twist {file}: {error.strerror}. `outthink twist` makes one."
            ) from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{file} is no twist that `outthink twist` wrote: {error}.") from error


def features(tokens: Sequence[int], order: int) -> Iterator[Key]:
    """What a `LinearTwist` sees of a prefix. With an ``order`` above every length, each prefix has one of its own."""
    ends = (BEGIN, *tokens)
    yield (ENDS_WITH,)
    yield from ((ENDS_WITH, *ends[-length:]) for length in range(1, min(order, len(ends)) + 1))
    yield from ((HOLDS, token) for token in sorted(set(tokens)))
    yield (LENGTH, len(tokens).bit_length())


@dataclass(frozen=True)
class Fit:
    """A ``twist`` and how well it forecasts: nats of cross-entropy a prefix on lines kept out (they also chose
    ``ridge``), beside those of the best constant there. ``log_mean``: of the potentials of all ``lines`` (nats).
    """

    twist: LinearTwist = field(repr=False)
    lines: int
    log_mean: float
    ridge: float
    heldout_loss: float
    constant_loss: float


def fit_twist(
    lines: Sequence[tuple[Sequence[int], float]], order: int = 3, *, propose: bool = True, tokenizer: str = ""
) -> Fit:
    """The twist that forecasts the log-potentials of ``lines`` (their tokens, and that in nats) from their prefixes.

    ``lines`` must be drawn from the model's own law. Weights are penalised by half the ridge times their square, that
    of the constant excepted. Raises UserError for an ``order`` below 0, for fewer lines than there are held-out parts,
    and where no line has any weight: then there is nothing to tell prefixes apart by.
    """
    if order < 0:
        raise UserError(f"order={order} must be at least 0: how many of the last tokens are looked at.")
    if len(lines) < HELD_OUT:
        raise UserError(f"{len(lines)} lines are too few to learn a twist from: draw at least {HELD_OUT}.")
    log_scale = max(log_potential for _, log_potential in lines)
    if log_scale == -math.inf:
        raise UserError(
            f"None of {len(lines)} lines of the model has any weight, so that they tell nothing of which prefixes do. "
            "Draw more lines, or learn for a softer potential first."
        )
    labels = [math.exp(log_potential - log_scale) for _, log_potential in lines]
    groups = [[i for i in range(len(lines)) if (i % HELD_OUT == 0) is held] for held in (False, True)]
    inner, outer = (([lines[i][0] for i in group], [labels[i] for i in group]) for group in groups)
    tried = [(_loss(_fitted(*inner, order, ridge), *outer, order), ridge) for ridge in RIDGES]
    loss, ridge = min(tried)
    weights = _fitted([tokens for tokens, _ in lines], labels, order, ridge)
    shares = np.repeat(outer[1], [len(tokens) for tokens in outer[0]])
    mean = min(max(float(shares.mean()), 1e-12), 1 - 1e-12) if shares.size else 0.5
    constant = -mean * math.log(mean) - (1 - mean) * math.log1p(-mean)
    twist = LinearTwist(weights, order, log_scale, propose, tokenizer)
    return Fit(twist, len(lines), log_scale + math.log(math.fsum(labels) / len(labels)), ridge, loss, constant)


def _rows(lines: Sequence[Sequence[int]], labels: Sequence[float], order: int) -> Iterator[tuple[list[Key], float]]:
    for tokens, label in zip(lines, labels, strict=True):
        for length in range(1, len(tokens) + 1):
            yield list(features(tokens[:length], order)), label


def _fitted(lines: Sequence[Sequence[int]], labels: Sequence[float], order: int, ridge: float) -> dict[Key, float]:
    """The weights that minimise the cross-entropy summed over prefixes, plus the penalty: a convex problem."""
    from scipy.optimize import minimize
    from scipy.sparse import csr_array

    columns: dict[Key, int] = {(ENDS_WITH,): 0}
    shown, starts, targets = list[int](), [0], list[float]()
    for keys, label in _rows(lines, labels, order):
        shown += [columns.setdefault(key, len(columns)) for key in keys]
        starts.append(len(shown))
        targets.append(label)
    table = csr_array((np.ones(len(shown)), shown, starts), shape=(len(targets), len(columns)))
    wanted, penalty = np.asarray(targets), np.full(len(columns), ridge)
    penalty[0] = 1e-6

    def loss(weights: Any) -> tuple[float, Any]:
        scores = table @ weights
        value = float((np.logaddexp(0.0, scores) - wanted * scores).sum() + (penalty * weights**2).sum() / 2)
        return value, table.T @ (1 / (1 + np.exp(-np.clip(scores, -500, 500))) - wanted) + penalty * weights

    found = minimize(loss, np.zeros(len(columns)), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return {key: float(found[column]) for key, column in columns.items()}


def _loss(weights: Mapping[Key, float], lines: Sequence[Sequence[int]], labels: Sequence[float], order: int) -> float:
    """Nats of cross-entropy a prefix."""
    losses = list[float]()
    for keys, label in _rows(lines, labels, order):
        score = math.fsum(weights.get(key, 0.0) for key in keys)
        losses.append(float(np.logaddexp(0.0, score)) - label * score)
    return math.fsum(losses) / max(1, len(losses))
