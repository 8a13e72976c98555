"""Strategies for thinking longer. Each is one async function that reads like its paper."""

from outthink.core.registry import Method, Registry

STRATEGIES: Registry[Method] = Registry(
    "strategy",
    "outthink.strategies",
    {
        "greedy": "outthink.reason.greedy:greedy",
        "majority-vote": "outthink.reason.vote:majority_vote",
        "probability-vote": "outthink.reason.vote:probability_vote",
        "best-of-n": "outthink.reason.best_of_n:best_of_n",
        "sample-until-verified": "outthink.reason.sample_until_verified:sample_until_verified",
    },
)

__all__ = ["STRATEGIES"]
