"""Which laws of the protocol a server's branches keep: what a server does not offer, no client can make up."""

from __future__ import annotations

from outthink.lm import laws
from outthink.lm.laws import Law
from outthink.lm.remote.model import RemoteModel

_EXACT: tuple[Law, ...] = (  # a text that is read again may fall into other tokens, and an end token has none
    laws.scores_are_sums_of_log_probabilities,
    laws.fed_text_is_a_prefix_like_any_other,
    laws.another_ledger_pays,
    laws.asides_leave_no_trace,
)
_SCORING: tuple[Law, ...] = (laws.prefixes_are_immutable, laws.budgets_are_kept)


def laws_of(model: RemoteModel) -> tuple[Law, ...]:
    """The laws that ``model`` keeps, for prompts of the kind that it is put.

    Some hold everywhere. Children are the same in any company only where each has a request and a seed of its own; a
    prompt is charged once only where a cache is reported; tokens are exact where they are the server's own ids.
    """
    capabilities, server = model.capabilities, model.server
    route = capabilities.chat if model.chat else capabilities.completions
    assert route is not None
    exact = route.token_ids and not model.chat
    kept: dict[Law, bool] = dict.fromkeys(_EXACT, exact and route.echoes)
    kept |= dict.fromkeys(_SCORING, route.echoes and route.continues)
    alone = not (server.together and route.many)
    kept[laws.another_ledger_pays] = kept[laws.asides_leave_no_trace] = exact and alone
    kept[laws.extending_is_deterministic] = route.seeds and alone
    kept[laws.budgets_are_charged_once] = exact and route.caches and bool(server.flops)
    kept[laws.flops_are_kept] = route.stream is not None and bool(server.flops)
    kept[laws.time_is_kept] = route.stream is not None
    kept[laws.closed_branches_refuse_use] = route.continues
    return tuple(law for law in laws.LAWS if kept.get(law, True))
