"""Names for tokens: the server's ids where it gives them, else ids of our own, one for each text of a token."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from outthink.core.errors import PromptError


class Vocabulary:
    """Token ids and what they spell, as far as the server has shown it. Safe to use from any thread.

    An id of our own stands for a text: equal texts have equal ids, and the texts of a branch's tokens, joined, are the
    branch's text. Id 0 spells nothing. ``foreign``: ids are the server's, and only what they spell is noted here.
    """

    def __init__(self, foreign: bool = False) -> None:
        self.foreign = foreign
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {} if foreign else {"": 0}
        self._pieces: dict[int, str] = {} if foreign else {0: ""}

    def id_of(self, piece: str) -> int:
        """Our own id of the tokens that spell ``piece``."""
        with self._lock:
            token = self._ids.setdefault(piece, len(self._ids))
            self._pieces[token] = piece
            return token

    def note(self, token: int, piece: str) -> None:
        """Remember what one of the server's ids spells."""
        if piece:
            with self._lock:
                self._pieces.setdefault(token, piece)

    def spell(self, token: int) -> str:
        """What ``token`` spells; empty for one of the server's that was never seen alone."""
        return self._pieces.get(token, "")

    def text(self, tokens: Iterable[int]) -> str:
        """The text of ids of our own. Raises PromptError for one that was never given."""
        pieces = []
        for token in tokens:
            if token not in self._pieces:
                raise PromptError(
                    f"Token id {token!r} is none that came from here: this server gives no ids, so those of branches "
                    "are our own. Give text."
                )
            pieces.append(self._pieces[token])
        return "".join(pieces)
