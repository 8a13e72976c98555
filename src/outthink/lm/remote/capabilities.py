"""What a server turned out to offer, and what is refused because of it before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from outthink.core.errors import CapabilityError
from outthink.core.sampling import Sampling, Until
from outthink.lm.needs import NEEDS

COMPLETIONS, CHAT = "/completions", "/chat/completions"


@dataclass(frozen=True)
class Route:
    """One way to have text written: ``/completions``, which continues any prefix, or ``/chat/completions``.

    ``neutral``: options beyond OpenAI's that this server honours, with the values that leave the model's law alone.
    ``stream``: what is sent to have a response streamed, None where it cannot be. ``many``: `n` texts in one response.
    ``seeds``: equal seeds gave equal texts. ``top``: how many likeliest tokens it gives beside each (-1: no
    log-probabilities at all). ``token_ids``: it takes and gives the model's own token ids, and biases them. ``echoes``:
    it gives the log-probabilities of a prompt. ``stops``: it tells which texts a stop string ended. ``continues``: it
    goes on with a partial text. ``caches``: it reports prompt tokens found in its cache.
    """

    path: str
    neutral: Mapping[str, Any] = field(default_factory=dict)
    stream: Mapping[str, Any] | None = None
    many: bool = False
    seeds: bool = False
    top: int = -1
    token_ids: bool = False
    echoes: bool = False
    stops: bool = False
    continues: bool = False
    caches: bool = False

    def offers(self, sampling: Sampling) -> frozenset[str]:
        """Which of `outthink.lm.needs.NEEDS` this route meets, sampling with ``sampling``."""
        offered = {
            "continuation": self.continues,
            "log_probs": self.top >= 0,
            "sample_log_probs": self.top >= 0 and knows_own_law(sampling),
            "biased_log_probs": False,
            "top_log_probs": self.top > 0,
            "token_ids": self.token_ids,
            "score": self.echoes,
        }
        return frozenset(need for need in NEEDS if offered[need])

    def check(self, sampling: Sampling, until: Until, server: str) -> None:
        """Raise CapabilityError for an option that would not be honoured."""
        wanted = {
            "top_k": sampling.top_k is not None,
            "min_p": sampling.min_p > 0,
            "repetition_penalty": sampling.repetition_penalty != 1,
        }
        if sampling.constraint is not None:
            raise CapabilityError(f"{server} draws its tokens itself, so that no constraint can be put on them here.")
        for name, asked in wanted.items():
            if asked and not (
                name in self.neutral or (name == "repetition_penalty" and "repeat_penalty" in self.neutral)
            ):
                raise CapabilityError(f"{server} does not honour {name}; leave it out.")
        if sampling.top_logprobs > max(0, self.top):
            raise CapabilityError(
                f"{server} gives {max(0, self.top)} likeliest tokens beside each drawn one, and top_logprobs asks for "
                f"{sampling.top_logprobs}."
            )
        if not self.token_ids:
            for name, asked in (("logit_bias", sampling.logit_bias), ("stop_tokens", until.stop_tokens)):
                if asked:
                    raise CapabilityError(
                        f"{name} names tokens by id, and {server} neither takes nor gives token ids; use text instead."
                    )


@dataclass(frozen=True)
class Capabilities:
    """What was found out about a server: its ``model``, its routes, ``context`` (positions; None: it does not say),
    and ``tokenizer``, the path of its route from text to token ids, with whether that accepts chat messages too.
    """

    model: str
    completions: Route | None = None
    chat: Route | None = None
    context: int | None = None
    tokenizer: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        routes = {
            name: None
            if route is None
            else {**vars(route), "neutral": dict(route.neutral), "stream": route.stream is not None}
            for name, route in (("completions", self.completions), ("chat", self.chat))
        }
        return {"model": self.model, "context": self.context, "tokenizer": self.tokenizer, **routes}


def knows_own_law(sampling: Sampling) -> bool:
    """Whether log-probabilities under ``sampling`` follow from the model's own: it is that law, or greedy."""
    plain = Sampling(temperature=sampling.temperature, seed=sampling.seed, top_logprobs=sampling.top_logprobs)
    return sampling.greedy or (sampling == plain and sampling.temperature == 1)
