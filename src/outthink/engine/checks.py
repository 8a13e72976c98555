"""What is refused before it reaches the stepping thread, where an error would end every request in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsIndex

from outthink.core.errors import PromptError, SamplingError
from outthink.core.sampling import Sampling, Until


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise PromptError for what is no whole number, and for ids outside the vocabulary."""
    if wrong := [t for t in tokens if not isinstance(t, int | SupportsIndex)]:
        raise PromptError(f"Token id {wrong[0]!r} is no whole number.")
    if bad := [t for t in tokens if not 0 <= t < vocab_size]:
        raise PromptError(f"Token id {bad[0]} is outside the vocabulary of {vocab_size:,}.")


def check_prompt(tokens: Sequence[int], max_positions: int, vocab_size: int) -> None:
    """Raise PromptError for a prompt that is empty, too long, or holds ids outside the vocabulary."""
    if not tokens:
        raise PromptError("The prompt is empty: give at least one token of text.")
    if len(tokens) >= max_positions:
        raise PromptError(
            f"The prompt has {len(tokens):,} tokens, and {max_positions:,} positions is the most that this model and "
            "its page pool hold, with at least one to be written. Shorten the prompt."
        )
    check_tokens(tokens, vocab_size)


def check_options(sampling: Sampling, until: Until, vocab_size: int) -> None:
    """Raise SamplingError for what cannot be applied to this vocabulary, or leaves nothing to draw."""
    whole = {
        "seed": sampling.seed,
        "top_k": sampling.top_k,
        "top_logprobs": sampling.top_logprobs,
        "max_tokens": until.max_tokens,
        **{f"stop_tokens[{i}]": token for i, token in enumerate(until.stop_tokens)},
        **{f"logit_bias[{token!r}]": token for token in sampling.logit_bias},
    }
    for name, value in whole.items():
        if value is not None and not isinstance(value, int | SupportsIndex):
            raise SamplingError(f"{name}={value!r} is out of range: it must be a whole number.")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise SamplingError(f"logit_bias is given for token {token}, outside the vocabulary of {vocab_size:,}.")
        if bias == math.inf:
            raise SamplingError(f"logit_bias[{token}]=inf is out of range: it must be a number or -inf.")
    for token in until.stop_tokens:
        if not 0 <= token < vocab_size:
            raise SamplingError(f"The stop token {token} is outside the vocabulary of {vocab_size:,}.")
    if sampling.constraint is not None and until.ignore_eos:
        raise SamplingError("ignore_eos cannot be combined with a constraint: a text that is complete must end.")
    if sum(bias == -math.inf for bias in sampling.logit_bias.values()) >= vocab_size:
        raise SamplingError("logit_bias forbids every token of the vocabulary: leave at least one to be drawn.")
    for stop in until.stop:
        if not isinstance(stop, str):
            raise SamplingError(f"The stop string {stop!r} must be text; give token ids as stop_tokens.")
        if any("\ud800" <= character <= "\udfff" for character in stop):
            raise SamplingError(f"The stop string {stop!r} is no valid Unicode.")
