"""Log-probabilities in the two shapes that the API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outthink.models.tokenizer import Tokenizer
from outthink.serve.completions import Choice

Top = Sequence[tuple[int, float]]


def completion_logprobs(tokenizer: Tokenizer, choice: Choice, prompt: Sequence[int]) -> dict[str, Any]:
    """As completions show them: parallel lists. ``prompt`` are the echoed tokens, of which the first has none."""
    tokens = [*prompt, *choice.tokens]
    values: list[float | None] = [*([None] if prompt else []), *(value for value, _ in choice.scored)]
    values += choice.log_probs
    tops: list[Top | None] = [*([None] if prompt else []), *(top for _, top in choice.scored)]
    tops += choice.top or [()] * len(choice.tokens)
    texts = [_text(tokenizer, token) for token in tokens]
    offsets = [0]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": values,
        "top_logprobs": [None if top is None else {_text(tokenizer, t): value for t, value in top} for top in tops],
        "text_offset": offsets[: len(tokens)],
    }


def chat_logprobs(tokenizer: Tokenizer, choice: Choice) -> dict[str, Any]:
    """As chat completions show them: one object for each token."""
    tops = choice.top or [()] * len(choice.tokens)
    content = [
        {
            **_entry(tokenizer, token, value),
            "top_logprobs": [_entry(tokenizer, other, its) for other, its in top],
        }
        for token, value, top in zip(choice.tokens, choice.log_probs, tops, strict=True)
    ]
    return {"content": content}


def _entry(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    piece = tokenizer.token_bytes(token)
    return {"token": _text(tokenizer, token), "logprob": value, "bytes": list(piece)}


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode(errors="replace")
