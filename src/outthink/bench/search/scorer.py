"""What every searcher is guided by: cheap functions of texts and of token ids. The standard library alone.

They know nothing of right and wrong: they make all of them weigh, choose and resample by the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

LEAST, MOST = 0.2, 0.8
ODD = -0.5  # what an odd token adds to a log-potential
CELLS = 4  # of the first token, and of the last one


def score(text: str) -> float:
    """A number between `LEAST` and `MOST` that is a hash of ``text``, white space at its ends aside."""
    digest = blake2b(text.strip().encode(errors="surrogatepass"), digest_size=8).digest()
    return LEAST + (MOST - LEAST) * int.from_bytes(digest, "big") / 2**64


def log_potential(tokens: Sequence[int], allowed: Sequence[int] | None = None) -> float:
    """The log-potential of a token prefix: `ODD` for each odd id; -inf where one is not ``allowed``, if given."""
    if allowed is not None and not set(tokens) <= set(allowed):
        return -math.inf
    return ODD * sum(token % 2 for token in tokens)


def cell_of(tokens: Sequence[int], allowed: Sequence[int]) -> str:
    """Which of `CELLS` x `CELLS` kinds of line it is: by where its first and its last token stand in ``allowed``."""
    first, last = (allowed.index(token) % CELLS for token in (tokens[0], tokens[-1]))
    return f"{first},{last}"
