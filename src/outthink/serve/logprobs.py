"""Tokens and their log-probabilities in the shapes that the API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from outthink.models.tokenizer import Tokenizer


class Drawn(NamedTuple):
    """A token, its log-probability (nats) and the likeliest ones at its place, likeliest first; None for a token that
    nothing was drawn or scored before.
    """

    id: int
    log_prob: float | None
    top: Sequence[tuple[int, float]] | None


@dataclass(frozen=True)
class Speller:
    """Names tokens: by what they spell, or ``by_id`` as ``token_id:N``."""

    tokenizer: Tokenizer
    by_id: bool = False

    def completion(self, drawn: Sequence[Drawn], offset: int = 0) -> dict[str, Any]:
        """As completions show them: parallel lists. ``offset``: the characters before the first."""
        offsets, texts = [], [self._text(token.id) for token in drawn]
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": [self._name(token.id, text) for token, text in zip(drawn, texts, strict=True)],
            "token_logprobs": [token.log_prob for token in drawn],
            "top_logprobs": [
                None if token.top is None else {self._name(t, self._text(t)): value for t, value in token.top}
                for token in drawn
            ],
            "text_offset": offsets,
        }

    def length(self, drawn: Sequence[Drawn]) -> int:
        """How many characters `completion` counts for ``drawn``."""
        return sum(len(self._text(token.id)) for token in drawn)

    def chat(self, drawn: Sequence[Drawn]) -> dict[str, Any]:
        """As chat completions show them: one object for each token."""
        content = [
            {
                **self._entry(token.id, token.log_prob),
                "top_logprobs": [self._entry(other, value) for other, value in token.top or ()],
            }
            for token in drawn
        ]
        return {"content": content}

    def _entry(self, token: int, value: float | None) -> dict[str, Any]:
        name = self._name(token, self._text(token))
        return {"token": name, "logprob": value, "bytes": list(self.tokenizer.token_bytes(token))}

    def _name(self, token: int, text: str) -> str:
        return f"token_id:{token}" if self.by_id else text

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode(errors="replace")
