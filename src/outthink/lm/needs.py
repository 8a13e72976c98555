"""What a strategy or verifier may need of a language model beyond sampling whole lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from outthink.core.errors import CapabilityError

NEEDS = {
    "continuation": "extends lines that are partly written",
    "log_probs": "weighs the log-probabilities of drawn tokens",
    "sample_log_probs": "weighs the log-probabilities that tokens were drawn with",
    "biased_log_probs": "draws with biases of its own and weighs the log-probabilities of that",
    "top_log_probs": "reads the likeliest tokens beside each drawn one",
    "token_ids": "names tokens by id",
    "score": "scores given text",
}


def check_needs(needs: Iterable[str], lm: Any, who: str) -> None:
    """Raise CapabilityError where ``lm`` says in ``offers`` what it offers, and something of ``needs`` is not there."""
    offers = getattr(lm, "offers", None)
    if offers is None:
        return
    missing = [need for need in NEEDS if need in needs and need not in offers]
    if missing:
        told = ", and ".join(NEEDS[need] for need in missing)
        raise CapabilityError(
            f"{who} {told}, and {lm.name} with this sampling does not offer that ({', '.join(missing)}). It offers "
            f"{', '.join(sorted(offers)) or 'whole lines alone'}. Nothing was spent: choose a strategy that needs no "
            "more, such as majority-vote, or a server that offers it."
        )
