"""Strategies for thinking longer. Each is one async function that reads like its paper."""

from outthink.core.registry import Method, Registry, check_method

STRATEGIES: Registry[Method] = Registry(
    "strategy",
    "outthink.strategies",
    {
        "greedy": "outthink.reason.greedy:greedy",
        "majority-vote": "outthink.reason.vote:majority_vote",
        "probability-vote": "outthink.reason.vote:probability_vote",
        "best-of-n": "outthink.reason.best_of_n:best_of_n",
        "sample-until-verified": "outthink.reason.sample_until_verified:sample_until_verified",
        "sample-while-worthwhile": "outthink.reason.worthwhile:sample_while_worthwhile",
        "weighted-vote": "outthink.reason.weighted_vote:weighted_vote",
        "adaptive-vote": "outthink.reason.adaptive_vote:adaptive_vote",
        "confident-vote": "outthink.reason.confident_vote:confident_vote",
        "probability-consistency": "outthink.reason.consistent_vote:probability_consistency",
        "subthought-vote": "outthink.reason.subthought_vote:subthought_vote",
        "hint-marginalization": "outthink.reason.hint_vote:hint_marginalization",
        "particle-filter": "outthink.reason.particles.filters:particle_filter",
        "entropic-particle-filter": "outthink.reason.particles.filters:entropic_particle_filter",
        "particle-gibbs": "outthink.reason.particles.gibbs:particle_gibbs",
        "tempered-particle-gibbs": "outthink.reason.particles.gibbs:tempered_particle_gibbs",
        "token-smc": "outthink.reason.particles.tokens:token_smc",
        "twisted-smc": "outthink.reason.particles.tokens:twisted_smc",
        "step-beam": "outthink.reason.search.step_beam:step_beam",
        "rebase": "outthink.reason.search.rebase:rebase",
        "dvts": "outthink.reason.search.dvts:dvts",
        "levin": "outthink.reason.search.best_first:levin",
        "a-star": "outthink.reason.search.best_first:a_star",
        "step-greedy": "outthink.reason.search.step_greedy:step_greedy",
        "mcts": "outthink.reason.search.mcts:mcts",
        "ab-mcts": "outthink.reason.search.abmcts:ab_mcts",
        "guided-beam": "outthink.reason.search.guided_beam:guided_beam",
        "token-beam": "outthink.reason.search.token_beam:token_beam",
        "diverse-beam": "outthink.reason.search.token_beam:diverse_beam",
        "revise": "outthink.reason.sequential.revise:revise",
        "evolve": "outthink.reason.sequential.evolve:evolve",
        "budget-forcing": "outthink.reason.sequential.budget_forcing:budget_forcing",
        "speculative-steps": "outthink.reason.sequential.speculative:speculative_steps",
        "two-models": "outthink.reason.sequential.two_models:two_models",
    },
    check_method,
)

__all__ = ["STRATEGIES"]
