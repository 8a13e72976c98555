"""What a server has to be sent so that it goes on from a branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

PAGE = 64  # positions; servers cache pages of 1 to 64


@dataclass
class Prefix:
    """Everything before a branch's children, in the forms in which it can be sent again.

    ``messages`` are those of a chat before the line of thought; ``text`` is the raw prefix, in a chat what the
    assistant has written so far; None where only ``ids`` are known. ``count``: how many tokens it is (None: not known
    yet). ``paid``: leading positions that are on the bill of its ancestors; ``computed``: positions billed for its own
    children, over and over where the server caches nothing.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    text: str | None = None
    ids: tuple[int, ...] | None = None
    count: int | None = None
    paid: int = 0
    computed: int = 0

    def then(self, text: str, ids: Sequence[int] | None, count: int | None, *, drawn: bool) -> Prefix:
        """This and ``text`` after it: ``count`` tokens (None: not known), with the ids ``ids`` where they are known.

        ``drawn``: by the server, which computed and billed it; else it was given, and is still to be read.
        """
        return replace(
            self,
            text=None if self.text is None else self.text + text,
            ids=None if self.ids is None or ids is None else (*self.ids, *ids),
            count=None if self.count is None or count is None else self.count + count,
            paid=self.paid if not drawn or self.count is None or count is None else self.count + count,
            computed=0,
        )

    def learn(self, ids: tuple[int, ...] | None, count: int | None) -> None:
        """Take in what a response or the server's tokenizer said of this prefix."""
        if ids is not None and self.ids is None and not self.messages:
            self.ids = ids
        if count is not None:
            self.count = count

    def prompt(self, by_id: bool) -> Any:
        """What is sent: messages, ids (where they are known and ``by_id``, or nothing else is), or text."""
        if self.messages:
            partial = [{"role": "assistant", "content": self.text}] if self.text else []
            return [*map(dict, self.messages), *partial]
        return list(self.ids) if self.ids is not None and (by_id or self.text is None) else self.text

    @property
    def most(self) -> int:
        """A bound on its number of tokens: no tokenizer makes more of a text than it has bytes, but for a few marks."""
        if self.count is not None:
            return self.count
        if self.ids is not None:
            return len(self.ids)
        spoken = sum(len(m["content"].encode()) + len(m["role"]) + 16 for m in self.messages)
        return spoken + len((self.text or "").encode()) + 4

    @property
    def surely_cached(self) -> int:
        """How many of its positions a server that caches need not compute again: it keeps whole pages."""
        return max(0, self.paid - PAGE)

    @property
    def guess(self) -> int:
        """Its number of tokens, at four bytes each where nothing better is known."""
        if self.count is not None or self.ids is not None:
            return self.most
        return max(1, -(-self.most // 4))
