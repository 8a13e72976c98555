"""What may be written: a language that sampled text is kept within, token by token."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ConstraintState(Protocol):
    """How far into its language a text is. Belongs to one text; a branch's children go on from copies."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens [vocabulary] leave a way to the end of the language, a fresh array. An end token is among them
        exactly where the text so far is of the language. Raises SamplingError where that costs more than is allowed.
        """
        ...

    def advance(self, token: int) -> None:
        """Take in the next token. Raises SamplingError for one that is not allowed."""
        ...

    def copy(self) -> ConstraintState:
        """A state of its own at the same place; cheap."""
        ...


class Constraint(Protocol):
    """A language of token sequences, to be shared by every line that is sampled under it; see
    `outthink.lm.grammar` for how to make one.
    """

    def begin(self, tokenizer: Any) -> ConstraintState:
        """The state before the first token. Raises SamplingError for a tokenizer that it was not made for."""
        ...
