"""Between our records and the JSON of OpenAI-compatible servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outthink.core.sampling import Sampling, Until
from outthink.lm.remote.capabilities import CHAT, Route
from outthink.lm.remote.errors import RequestRefusedError, ServerFailedError, UnusableResponseError, error_message

_ID = "token_id:"  # how servers spell a token by its id, where they are asked to
MOST_BIAS = 100.0  # servers allow no larger logit_bias


@dataclass(frozen=True)
class Drawn:
    """One token: what it spells as far as the server says, its id, its log-probability (nats), the likeliest ones."""

    piece: str | None = None
    id: int | None = None
    log_prob: float | None = None
    top: tuple[tuple[str | int, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """What a response adds to text ``index``; ``finish`` is the server's own word for why it ended."""

    index: int
    text: str
    drawn: tuple[Drawn, ...] = ()
    finish: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens that the server says it handled; ``cached`` of the prompt were found in its cache (None: not said)."""

    prompt: int
    completion: int
    cached: int | None = None


@dataclass(frozen=True)
class Reading:
    """What one event, or a whole response, says."""

    deltas: tuple[Delta, ...]
    usage: Usage | None = None
    prompt_ids: tuple[int, ...] | None = None


def request(
    route: Route, model: str, prompt: Any, n: int, most: int | None, until: Until, sampling: Sampling, seed: int
) -> dict[str, Any]:
    """The body that asks for ``n`` texts of at most ``most`` tokens after ``prompt`` (text, ids or messages).

    A partial assistant message at the end of the messages is continued.
    """
    body: dict[str, Any] = {"model": model, **route.neutral, "temperature": sampling.temperature}
    if route.path == CHAT:
        body["messages"] = prompt
        if prompt[-1].get("role") == "assistant":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if route.top >= 0:
            body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    else:
        body["prompt"] = prompt
        if route.top >= 0:
            body["logprobs"] = max(1, sampling.top_logprobs)
    if most is not None:
        body["max_tokens"] = most
    if n > 1:
        body["n"] = n
    if route.seeds:
        body["seed"] = seed
    body |= _sampling(route, sampling)
    if route.token_ids:
        body |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        if until.stop_tokens:
            body["stop_token_ids"] = list(until.stop_tokens)
    if until.stop and route.stops:
        body |= {"stop": list(until.stop), "include_stop_str_in_output": True}
    if until.ignore_eos and route.neutral:
        body["ignore_eos"] = True
    return body | dict(route.stream or {})


def _sampling(route: Route, sampling: Sampling) -> dict[str, Any]:
    """Options of ``sampling`` that differ from their neutral values, as the server spells them."""
    body: dict[str, Any] = {}
    for name in ("top_p", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(Sampling(), name) or name == "top_p":
            body[name] = getattr(sampling, name)
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        spelled = [name for name in ("repetition_penalty", "repeat_penalty") if name in route.neutral]
        body |= dict.fromkeys(spelled, sampling.repetition_penalty)
    if sampling.logit_bias:
        clipped = {str(t): max(-MOST_BIAS, min(MOST_BIAS, bias)) for t, bias in sampling.logit_bias.items()}
        body["logit_bias"] = clipped
    return body


def read(event: Mapping[str, Any]) -> Reading:
    """What an event or a whole response of either route says.

    Raises ServerFailedError for an error in the stream, UnusableResponseError for missing or wrong fields.
    """
    if event.get("error"):
        message, code = error_message(event)
        if code.startswith("4"):
            raise RequestRefusedError(f"The server refused the request in the midst of its response: {message}.")
        raise ServerFailedError(f"The server failed in the midst of a response: {message}.")
    choices = _of(event, "choices", list)
    deltas = tuple(_delta(choice, at) for at, choice in enumerate(choices))
    ids = event.get("prompt_token_ids")
    if ids is None and choices:
        ids = choices[0].get("prompt_token_ids")
    return Reading(deltas, _usage(event.get("usage")), None if ids is None else _ids(ids))


def _delta(choice: Any, position: int) -> Delta:
    if not isinstance(choice, dict):
        raise UnusableResponseError(f"The server's choice {position} is {choice!r:.80}, not an object.")
    index, finish = choice.get("index", position), choice.get("finish_reason")
    if not isinstance(index, int):
        raise UnusableResponseError(f"The server gave a choice the index {index!r:.80}, not a number.")
    if "text" in choice:
        text = choice["text"] if choice["text"] is not None else ""
    else:
        message = choice.get("delta", choice.get("message"))
        if not isinstance(message, dict):
            raise UnusableResponseError(f"The server's choice {position} has neither text, message nor delta.")
        text = message.get("content") or ""
    if not isinstance(text, str):
        raise UnusableResponseError(f"The server's choice {position} has a text that is none: {text!r:.80}.")
    drawn = _drawn(choice.get("logprobs"))
    ids = choice.get("token_ids")
    if ids is not None:
        ids = _ids(ids)
        if drawn and len(drawn) == len(ids):
            drawn = tuple(Drawn(d.piece, i, d.log_prob, d.top) for d, i in zip(drawn, ids, strict=True))
        else:
            drawn = tuple(Drawn(id=i) for i in ids)
    return Delta(index, text, drawn, finish if finish is None else str(finish))


def _drawn(log_probs: Any) -> tuple[Drawn, ...]:
    """The tokens in a ``logprobs`` object: that of completions (parallel lists) or that of chat (a list of objects)."""
    if not isinstance(log_probs, dict):
        return ()
    if isinstance(log_probs.get("content"), list):
        return tuple(
            _one(
                entry.get("token"),
                entry.get("logprob"),
                {t.get("token"): t.get("logprob") for t in entry.get("top_logprobs") or ()},
            )
            for entry in log_probs["content"]
            if isinstance(entry, dict)
        )
    tokens, values = log_probs.get("tokens") or [], log_probs.get("token_logprobs") or []
    tops = log_probs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise UnusableResponseError(f"The server gave {len(values)} log-probabilities for {len(tokens)} tokens.")
    return tuple(_one(*entry) for entry in zip(tokens, values, tops, strict=True))


def _one(token: Any, log_prob: Any, top: Any) -> Drawn:
    if not isinstance(token, str) or not (log_prob is None or isinstance(log_prob, int | float)):
        raise UnusableResponseError(f"The server gave token {token!r:.80} the log-probability {log_prob!r:.80}.")
    entries = [(_name(t), float(p)) for t, p in top.items()] if isinstance(top, dict) else []
    entries.sort(key=lambda entry: -entry[1])
    name = _name(token)
    value = None if log_prob is None else float(log_prob)
    if value is not None and math.isnan(value):
        raise UnusableResponseError(f"The server gave token {token!r:.80} a log-probability that is no number.")
    return Drawn(
        name if isinstance(name, str) else None, name if isinstance(name, int) else None, value, tuple(entries)
    )


def _name(token: str) -> str | int:
    """A token's id where it is spelled as one, else its text."""
    number = token.removeprefix(_ID)
    return int(number) if number != token and number.isdigit() else token


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    completion = usage.get("completion_tokens")
    return Usage(
        max(0, usage["prompt_tokens"]),
        max(0, completion) if isinstance(completion, int) else 0,
        min(usage["prompt_tokens"], max(0, cached)) if isinstance(cached, int) else None,
    )


def _ids(ids: Any) -> tuple[int, ...]:
    if not isinstance(ids, Sequence) or not all(isinstance(i, int) for i in ids):
        raise UnusableResponseError(f"The server gave token ids that are none: {ids!r:.80}.")
    return tuple(ids)


def _of(event: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(event.get(name), kind):
        raise UnusableResponseError(
            f"The server's response has no {name}, but {', '.join(sorted(map(str, event))) or 'nothing'}: it does not "
            "speak this protocol. Is the base URL right?"
        )
    return event[name]
