"""The events of a streamed response, in the order and the shapes of the Responses API."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]


class ResponseEvents:
    """Numbers the events of one response. ``items``: what its output is made of so far."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.items: list[dict[str, Any]] = []
        self._head, self._numbers = head, itertools.count()
        self._text: list[str] = []
        self._id = f"msg_{uuid.uuid4().hex}"

    def begin(self) -> Iterator[Event]:
        """That the response is worked on."""
        response = {**self._head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def reasoning(self, text: str) -> Iterator[Event]:
        """An item of reasoning, with all of its text."""
        item = reasoning_item(text)
        place = {"item_id": item["id"], "output_index": len(self.items), "summary_index": 0}
        part = item["summary"][0]
        yield self._event("response.output_item.added", output_index=len(self.items), item={**item, "summary": []})
        yield self._event("response.reasoning_summary_part.added", **place, part={**part, "text": ""})
        yield self._event("response.reasoning_summary_text.delta", **place, delta=text)
        yield self._event("response.reasoning_summary_text.done", **place, text=text)
        yield self._event("response.reasoning_summary_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)

    def open_message(self) -> Iterator[Event]:
        """The message, with no text yet."""
        item = {**message_item("", False, self._id), "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=len(self.items), item=item)
        yield self._event("response.content_part.added", **self._place, part=_part(""))

    def text(self, delta: str) -> Event:
        """More text of the message."""
        self._text.append(delta)
        return self._event("response.output_text.delta", **self._place, delta=delta, logprobs=[])

    def close_message(self, complete: bool) -> Iterator[Event]:
        """The message with all of its text."""
        text = "".join(self._text)
        item = message_item(text, complete, self._id)
        yield self._event("response.output_text.done", **self._place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=_part(text))
        yield self._event("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)

    def end(self, response: dict[str, Any]) -> Event:
        """The whole response."""
        return self._event(f"response.{response['status']}", response=response)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": len(self.items), "content_index": 0}

    def _event(self, kind: str, **more: Any) -> Event:
        return {"type": kind, "sequence_number": next(self._numbers), **more}


def message_item(text: str, complete: bool, item_id: str | None = None) -> dict[str, Any]:
    """A message of the assistant."""
    return {
        "type": "message",
        "id": item_id or f"msg_{uuid.uuid4().hex}",
        "role": "assistant",
        "status": "completed" if complete else "incomplete",
        "content": [_part(text)],
    }


def reasoning_item(text: str) -> dict[str, Any]:
    """An item of reasoning."""
    return {"type": "reasoning", "id": f"rs_{uuid.uuid4().hex}", "summary": [{"type": "summary_text", "text": text}]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
