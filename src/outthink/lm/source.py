"""What a model that is ready to be asked looks like, wherever it runs."""

from __future__ import annotations

from typing import Protocol

from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling
from outthink.lm.protocol import LM


class LanguageModel(Protocol):
    """What `outthink.load` and `outthink.connect` return. ``chat``: problems are put to it as messages."""

    @property
    def name(self) -> str: ...

    @property
    def chat(self) -> bool: ...

    def session(self, ledger: Ledger | None = None, sampling: Sampling | None = None) -> LM:
        """This model as an `LM` bound to ``ledger`` (unlimited by default), with a tree of its own."""
        ...

    def spell(self, token: int) -> str:
        """What a token id spells; broken characters are replaced."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...

    def __enter__(self) -> LanguageModel: ...

    def __exit__(self, *exc_info: object) -> None: ...
