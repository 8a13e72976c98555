"""How the next token is drawn, and where a branch stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from outthink.core.constraint import Constraint
from outthink.core.errors import SamplingError


@dataclass(frozen=True)
class Sampling:
    """The distribution that tokens are drawn from.

    Applied in this order to the model's logits: ``constraint`` (only tokens that it allows after what was written below
    the prompt); ``logit_bias``; ``repetition_penalty`` (divides positive and multiplies
    negative logits of tokens in prompt or text); ``presence_penalty`` and ``frequency_penalty`` (subtracted, once and
    per occurrence, for tokens in the text generated so far); ``temperature`` (0 takes the largest logit, ties to the
    lowest id); ``top_k``; ``top_p`` (the smallest set of likeliest tokens with at least that mass); ``min_p`` (at least
    that fraction of the likeliest token's probability).

    ``seed`` keys the random numbers; ``top_logprobs`` asks for that many log-probabilities beside each token's own. The
    ``constraint`` of an `LM`'s own sampling holds for every line below its roots, whatever else an extension asks for.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    top_logprobs: int = 0
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _require(
            self.temperature >= 0 and math.isfinite(self.temperature), "temperature", self.temperature, "0 or more"
        )
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1, or None")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(
            self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty),
            "repetition_penalty",
            self.repetition_penalty,
            "above 0",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            _require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        for token, bias in self.logit_bias.items():
            _require(token >= 0 and not math.isnan(bias), f"logit_bias[{token}]", bias, "a number, for a token id")
        _require(0 <= self.top_logprobs <= 100, "top_logprobs", self.top_logprobs, "between 0 and 100")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def needs_history(self) -> bool:
        """Whether the distribution depends on which tokens came before."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


@dataclass(frozen=True)
class Until:
    """Where an extension stops: after ``max_tokens`` new tokens (None: at the end of the context), at the first of
    the strings ``stop`` in the new text, or at one of ``stop_tokens``; at the model's end token unless ``ignore_eos``.

    The stop string or token stays part of the branch; `Branch.completion` is the text without it.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1, or None")
        _require(all(self.stop), "stop", self.stop, "non-empty strings")


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise SamplingError(f"{name}={value!r} is out of range: it must be {allowed}.")
