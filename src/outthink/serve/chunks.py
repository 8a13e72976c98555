"""Completions as the API shows them: whole choices, and the chunks of a stream. What both say of a text is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from outthink.serve.completions import Choice, Order, Outcome, Piece, cached_of
from outthink.serve.logprobs import Drawn, Speller
from outthink.serve.schema import ChatRequest, CompletionRequest, Generating
from outthink.serve.service import Service, usage


class _Teller:
    """Tells what became of one order. ``head``: what every object that is sent begins with."""

    def __init__(self, service: Service, body: Generating, order: Order, head: dict[str, Any]) -> None:
        self._tokenizer, self._order, self._head = service.model.loaded.tokenizer, order, head
        self._speller = Speller(self._tokenizer, body.return_tokens_as_token_ids)
        options = body.stream_options
        self._tells_ids = body.return_token_ids
        self._tells_end = options is not None and options.include_usage
        self._counts = options is not None and options.continuous_usage_stats
        self._prompt_tokens, self._num_drawn = sum(map(len, order.prompts)), 0
        self._begun: set[int] = set()

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """The last event of a stream, where one is wanted."""
        return [{**self._head, "choices": [], "usage": usage_of(outcome)}] if self._tells_end else []

    def _used(self, piece: Piece) -> dict[str, Any]:
        self._num_drawn += len(piece.drawn)
        if not self._counts or piece.bill is None:
            return {}
        return {"usage": usage(self._prompt_tokens, self._num_drawn, cached_of(piece.bill, self._prompt_tokens))}

    def _ids(self, drawn: Sequence[Drawn]) -> dict[str, Any]:
        return {"token_ids": [token.id for token in drawn]} if self._tells_ids else {}

    def _prompt_ids(self, prompt: Sequence[int]) -> dict[str, Any]:
        return {"prompt_token_ids": list(prompt)} if self._tells_ids else {}


class CompletionTeller(_Teller):
    """Tells of a request for completions."""

    def __init__(self, service: Service, body: CompletionRequest, order: Order, head: dict[str, Any]) -> None:
        super().__init__(service, body, order, head)
        self._log_probs, self._offsets = body.logprobs is not None, Counter[int]()

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": self._place(choice),
                "text": self._echo(choice.prompt) + choice.text,
                "logprobs": self._speller.completion([*choice.echoed, *choice.drawn]) if self._log_probs else None,
                "finish_reason": choice.finish,
                **self._ids(choice.drawn),
                **self._prompt_ids(self._order.prompts[choice.prompt]),
            }
            for choice in outcome.choices
        ]
        return {**self._head, "choices": choices, "usage": usage_of(outcome)}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The event of a piece."""
        place, echoes = self._place(piece), piece.echoed is not None
        drawn, log_probs = piece.drawn if piece.echoed is None else piece.echoed, None
        if self._log_probs and (drawn or piece.choice is not None):
            log_probs = self._speller.completion(drawn, self._offsets[place])
            self._offsets[place] += self._speller.length(drawn)
        choice = {
            "index": place,
            "text": self._echo(piece.prompt) if echoes else piece.text,
            "logprobs": log_probs,
            "finish_reason": None if piece.choice is None else piece.choice.finish,
            **self._ids(piece.drawn),
            **({} if place in self._begun else self._prompt_ids(self._order.prompts[piece.prompt])),
        }
        self._begun.add(place)
        return {**self._head, "choices": [choice], **self._used(piece)}

    def _place(self, of: Choice | Piece) -> int:
        return of.prompt * max(1, self._order.n) + of.index

    def _echo(self, prompt: int) -> str:
        if not self._order.echo:
            return ""
        return self._tokenizer.decode(self._order.prompts[prompt], skip_special_tokens=False)


class ChatTeller(_Teller):
    """Tells of a chat."""

    def __init__(self, service: Service, body: ChatRequest, order: Order, head: dict[str, Any]) -> None:
        super().__init__(service, body, order, head)
        self._log_probs = body.logprobs

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text},
                "logprobs": self._speller.chat(choice.drawn) if self._log_probs else None,
                "finish_reason": choice.finish,
                **self._ids(choice.drawn),
            }
            for choice in outcome.choices
        ]
        head = {**self._head, "object": "chat.completion", **self._prompt_ids(self._order.prompts[0])}
        return {**head, "choices": choices, "usage": usage_of(outcome)}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The event of a piece."""
        first = piece.index not in self._begun
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        choice = {
            "index": piece.index,
            "delta": delta | ({"content": piece.text} if piece.text or first or piece.choice is None else {}),
            "logprobs": self._speller.chat(piece.drawn) if self._log_probs else None,
            "finish_reason": None if piece.choice is None else piece.choice.finish,
            **self._ids(piece.drawn),
        }
        told = {} if self._begun else self._prompt_ids(self._order.prompts[0])
        self._begun.add(piece.index)
        return {**self._head, **told, "choices": [choice], **self._used(piece)}


def usage_of(outcome: Outcome) -> dict[str, Any]:
    """The tokens of an outcome as the API counts them."""
    return usage(outcome.prompt_tokens, outcome.completion_tokens, outcome.cached)
