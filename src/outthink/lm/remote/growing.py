"""A text while it grows: where it is cut, and which tokens spell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from outthink.core.sampling import Until
from outthink.lm.remote.errors import InterruptedResponseError
from outthink.lm.remote.wire import Delta, Drawn

_BROKEN = "\ufffd"


class Growing:
    """One child of a branch in the making.

    ``until`` is kept here whether or not the server keeps it: ``over`` says that nothing more is wanted. ``exact``:
    tokens are the server's own ids, and can be sent again even where they end within a character; else the text itself
    must be whole. ``pays``: how many tokens the budget allows.
    """

    def __init__(self, until: Until, exact: bool, key: int) -> None:
        self.until, self.exact, self.key = until, exact, key
        self.pays: int | None = None
        self.text = self.completion = ""
        self.drawn: list[Drawn] = []
        self.finish: str | None = None
        self.ended = False
        self.surplus = 0  # tokens that came after the text was over
        self.stopped = self.closed = False  # at a stop string; by the server
        self._received = 0  # tokens of the response now being read
        self._shown = 0

    @property
    def over(self) -> bool:
        return self.finish is not None

    @property
    def room(self) -> int | None:
        """How many more tokens may come; None for any number."""
        limits = [limit for limit in (self.until.max_tokens, self.pays) if limit is not None]
        return None if not limits else min(limits) - len(self.drawn)

    @property
    def ids(self) -> list[int] | None:
        """The server's ids of the tokens; None where it did not give them all."""
        ids = [token.id for token in self.drawn if token.id is not None]
        return ids if self.exact and len(ids) == len(self.drawn) else None

    def take(self, delta: Delta) -> int:
        """Take in what a response adds; returns how many tokens that is, those that are not kept included."""
        drawn = delta.drawn or ((Drawn(delta.text),) if delta.text else ())
        self.closed |= delta.finish is not None
        self._received += len(drawn)
        if self.over:
            self.surplus += len(drawn)
            return len(drawn)
        for token in _aligned(drawn, delta.text):
            if self.over:
                self.surplus += 1
                continue
            self._take_one(token)
        if not self.over and delta.finish is not None:
            self._end(delta.finish)
        return len(drawn)

    def settle_count(self, reported: int) -> None:
        """Make the tokens of the response that was just read ``reported`` many, where we were told no more of them than
        their text.
        """
        missing = reported - self._received
        told = any(token.id is not None or token.log_prob is not None for token in self.drawn)
        if missing > 0 and not told and not self.surplus:
            room = missing if self.until.max_tokens is None else self.until.max_tokens - len(self.drawn)
            self.drawn += [Drawn("")] * max(0, min(missing, room))
            self._received = reported

    def begin_response(self) -> None:
        """A response is about to be read."""
        self._received = 0

    def cut(self, finish: str) -> None:
        """Stop here."""
        if not self.over:
            self.finish = finish
            self.make_whole()

    def restart(self) -> None:
        """Forget what came: the text is to be written anew."""
        self.text = self.completion = ""
        self.drawn, self._shown = [], 0

    def fresh(self) -> str:
        """What was added to the text since this was last asked and will stay: what is to be shown now."""
        text = self.text if self.over else self.text.rstrip(_BROKEN)
        shown, self._shown = self._shown, max(self._shown, len(text))
        return text[shown:]

    def _take_one(self, token: Drawn) -> None:
        self.drawn.append(token)
        self.text += token.piece or ""
        self.completion = self.text
        stops = [(at, stop) for stop in self.until.stop if (at := self.text.find(stop)) >= 0]
        if stops:
            at, stop = min(stops)
            self.completion = self.text[:at]
            told = token.id is not None or token.log_prob is not None
            if not told:  # what came in one piece is cut where the stop string ends
                extra = len(self.text) - at - len(stop)
                self.text = self.text[: at + len(stop)]
                self.drawn[-1] = replace(token, piece=(token.piece or "")[: len(token.piece or "") - extra])
            self.finish, self.stopped = "stop", True
        elif token.id is not None and token.id in self.until.stop_tokens:
            self.finish = "stop"
        elif self.room is not None and self.room <= 0:
            self.cut("length" if len(self.drawn) == self.until.max_tokens else "budget")

    def _end(self, reason: str) -> None:
        """The server says that the text is over."""
        if reason == "length":
            self.cut("length")
        elif reason in ("abort", "error"):
            raise InterruptedResponseError(f"The server gave up in the midst of a text ({reason}).")
        else:
            self.ended = True
            self.cut("stop")

    def make_whole(self) -> None:
        """Drop what could not be sent again: an end token's empty piece, the beginning of a character."""
        if self.exact:
            return
        while self.drawn and (not self.drawn[-1].piece or self.drawn[-1].piece.endswith(_BROKEN)):
            dropped = self.drawn.pop()
            if dropped.piece:
                self.text = self.text[: -len(dropped.piece)]
        self.completion = self.text


def _aligned(drawn: Sequence[Drawn], text: str) -> list[Drawn]:
    """The tokens with pieces that, joined, are exactly ``text``.

    What a server calls a token need not be what it adds to the text: an end token adds nothing, and bytes of one
    character show only with the last of them.
    """
    rest, found = text, []
    for token in drawn:
        piece = token.piece if token.piece is not None and rest.startswith(token.piece) else ""
        rest = rest[len(piece) :]
        found.append(replace(token, piece=piece))
    if rest and found:
        found[-1] = replace(found[-1], piece=found[-1].piece + rest)
    return found
