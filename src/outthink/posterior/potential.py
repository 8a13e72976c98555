"""What a language model's law is multiplied by, and what may guide the particles on the way there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Prefix:
    """What was written after the prompt so far. ``whole``: nothing will follow."""

    tokens: tuple[int, ...]
    text: str
    whole: bool = False


@runtime_checkable
class Potential(Protocol):
    """A factor on prefixes. On whole lines it is the target: lines weigh p(line) exp(log_potential(line)).

    On unfinished ones any finite value is right in the limit, and a better forecast of what is to come wastes fewer
    particles. -inf rules a prefix out together with everything that continues it.
    """

    def log_potential(self, prefix: Prefix) -> float:
        """The log of the factor (nats)."""
        ...


@runtime_checkable
class Twist(Protocol):
    """A forecast of a potential: what an unfinished prefix is worth, and what its next token should be.

    (Zhao et al. 2024, Probabilistic Inference in Language Models via Twisted Sequential Monte Carlo, arXiv:2404.17546.)
    The best possible twist is the log of the expected potential of a line that begins with the prefix. Any other is as
    right in the limit. One that needs less of the model than token ids and biases on them says so in ``needs``, a tuple
    of `outthink.lm.needs.NEEDS`.
    """

    def log_twist(self, prefix: Prefix) -> float:
        """The log of the forecast for an unfinished prefix (nats); -inf only where no continuation has any weight."""
        ...

    def log_biases(self, prefix: Prefix) -> Mapping[int, float]:
        """What to add to the logits of the next token; an empty mapping proposes from the model as it is."""
        ...


@dataclass(frozen=True)
class Product:
    """The product of potentials; one that is -inf rules the prefix out before the later ones are asked."""

    factors: Sequence[Potential]

    def log_potential(self, prefix: Prefix) -> float:
        """The sum of the factors' logs (nats)."""
        total = 0.0
        for factor in self.factors:
            total += factor.log_potential(prefix)
            if total == -math.inf:
                break
        return total
