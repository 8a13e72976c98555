"""How each strategy spends a budget: options under which the budget is what ends its work, not a default of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from outthink.core.budget import Budget
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.registry import Method
from outthink.lm.model import Model
from outthink.lm.source import LanguageModel
from outthink.models.flops import head_flops, prefill_flops
from outthink.reason import STRATEGIES
from outthink.reason.expression import ALIASES, is_expression, read_strategy

ALL = "all"
SHORTEST_LINE = 2  # tokens: no budget pays for more lines than it has tokens / this
REPLY = 64  # tokens that a reply is taken to have, before any was seen
LETTERS = 4  # of a token, where the tokenizer is not at hand
UNKNOWN_TOKENS = 1 << 15  # taken for a budget of seconds, whose tokens are not known before


@dataclass(frozen=True)
class Room:
    """What a budget probably pays for: ``tokens`` in all, where one line with its prompt takes ``line`` of them."""

    tokens: float
    line: float

    @property
    def many(self) -> int:
        """More lines than the budget can pay."""
        return max(1, int(self.tokens // SHORTEST_LINE))

    @property
    def lines(self) -> int:
        """As many whole lines as it probably pays, at least one."""
        return max(1, int(self.tokens // self.line))

    @classmethod
    def of(cls, model: Model, budget: Budget, line: float) -> Room:
        """What ``budget`` pays for with ``model``, where one line with its prompt takes ``line`` tokens."""
        if budget.tokens is not None:
            return cls(budget.tokens, line)
        if budget.flops is not None:
            config, length = model.loaded.config, max(1, int(line))
            return cls(budget.flops / (prefill_flops(config, 0, length) / length + head_flops(config)), line)
        return cls(UNKNOWN_TOKENS, line)

    @classmethod
    def before(cls, model: LanguageModel, question: Question, budget: Budget) -> Room:
        """What ``budget`` pays for, before any reply was seen: at a server, which does not say how many tokens a prompt
        or a FLOP is, roughly.
        """
        if isinstance(model, Model):
            return cls.of(model, budget, len(model.session().encode(question.prompt)) + REPLY)
        return cls(budget.tokens or UNKNOWN_TOKENS, len(str(question.prompt)) / LETTERS + REPLY)


@dataclass(frozen=True)
class Scale:
    """``options``: of the strategy, for a budget that pays for a `Room`; ``how``: the same in words.

    ``verifier``: it asks one.
    """

    how: str
    options: Callable[[Room], dict[str, Any]]
    verifier: bool = True


def _many(room: Room) -> dict[str, Any]:
    return {"n": room.many}


def _steps(room: Room) -> dict[str, Any]:
    """A step, and the rest of another line, may be a single token."""
    return {"n": max(1, int(room.tokens))}


def _tree(room: Room) -> dict[str, Any]:
    return _steps(room) | {"width": _width(room)}


def _found(room: Room) -> dict[str, Any]:
    return _tree(room) | {"answers": room.many}


def _width(room: Room) -> int:
    """Ways to go on from a line: with four of them a short problem's tree is soon complete, and is then drawn again."""
    return max(4, math.isqrt(room.lines))


def _most(share: float, most: int) -> Callable[[Room], dict[str, Any]]:
    return lambda room: {"n": max(1, min(most, int(share * room.lines)))}


_LINES = "lines until the budget ends"
_WIDTH = "as wide as the budget pays whole lines, by the cost of its first one"
_ROOT = "in as many ways as the square root of the lines that it pays, at least four"
_PARTICLES = "as many particles as the budget moves to their end; then more islands"

SCALES: dict[str, Scale] = {
    "greedy": Scale("one line; the rest of the budget stays unspent", lambda room: {}, verifier=False),
    "majority-vote": Scale(_LINES, _many, verifier=False),
    "probability-vote": Scale(_LINES, _many, verifier=False),
    "probability-consistency": Scale(_LINES, _many, verifier=False),
    "confident-vote": Scale(_LINES, _many, verifier=False),
    "subthought-vote": Scale("lines and their completions until the budget ends", _many, verifier=False),
    "weighted-vote": Scale(_LINES, _many),
    "best-of-n": Scale(_LINES, _many),
    "adaptive-vote": Scale("lines until the vote is settled or the budget ends", _many, verifier=False),
    "sample-until-verified": Scale("lines until one is verified or the budget ends", _many),
    "sample-while-worthwhile": Scale(
        "lines until one is verified, another is not worth it, or the budget ends", _most(1.0, 512)
    ),
    "hint-marginalization": Scale(
        "half of it on first answers, a quarter on each of two rounds of hinted ones", _many, verifier=False
    ),
    "token-beam": Scale("n = what the budget probably pays, at most 100", _most(0.75, 100), verifier=False),
    "diverse-beam": Scale("n = what the budget probably pays, at most 100", _most(0.75, 100), verifier=False),
    "step-beam": Scale(_WIDTH, _many),
    "rebase": Scale(_WIDTH, _many),
    "dvts": Scale(_WIDTH, _many),
    "guided-beam": Scale(_WIDTH, _many),
    "step-greedy": Scale("steps until its first finished line that is good, or the budget ends", _many),
    "levin": Scale(f"expansions until the budget ends, {_ROOT}; the best line found", _found),
    "a-star": Scale(f"expansions until the budget ends, {_ROOT}; the best line found", _found),
    "mcts": Scale(f"expansions until the budget ends, {_ROOT}", _tree),
    "ab-mcts": Scale(_LINES, _steps),
    "particle-filter": Scale(_PARTICLES, _many),
    "entropic-particle-filter": Scale(_PARTICLES, _many),
    "particle-gibbs": Scale("as many particles as the budget moves to their end; then more chains", _many),
    "tempered-particle-gibbs": Scale("as many particles as the budget moves to their end; then more chains", _many),
    "revise": Scale("revisions until no fault is found or the budget ends", _many),
    "evolve": Scale("generations until the budget ends", _many),
    "budget-forcing": Scale(_LINES, _many, verifier=False),
    "token-smc": Scale(_PARTICLES, _many),
    "twisted-smc": Scale(_PARTICLES, _many),
}


def scale_of(strategy: str) -> Scale:
    """How a strategy, by its name or as `read_strategy` has it, spends a budget.

    One that is not known here gets a large ``n``, where it has that option; one with options of its own keeps them.
    """
    if strategy in SCALES:
        return SCALES[strategy]
    if not is_expression(strategy) and "n" in STRATEGIES.get(strategy).options:
        return Scale("n as large as the budget could pay", _many)
    return Scale("its own options", lambda room: {})


def spending(method: Method, model: LanguageModel, question: Question, budget: Budget) -> dict[str, Any]:
    """The options under which ``budget`` ends the work of ``method`` on ``question``; none where nothing is limited.

    A method that is not a registered one, as others combined are, keeps its own.
    """
    known = method.name in STRATEGIES.names() and STRATEGIES.get(method.name) == method
    if budget == Budget() or not known:
        return {}
    return scale_of(method.name).options(Room.before(model, question, budget))


def strategies_named(names: Sequence[str]) -> list[str]:
    """The strategies of these names, each once, in their order; ``all`` stands for every one that asks one model alone.

    Raises UnknownNameError, and UserError where there are none or one cannot be read.
    """
    found: dict[str, None] = {}
    for name in names:
        if name == ALL:
            found |= dict.fromkeys(method.name for method in STRATEGIES if not method.models)
        else:
            read_strategy(ALIASES.get(name, name))
            found[ALIASES.get(name, name)] = None
    if not found:
        raise UserError(f"Name a strategy, or '{ALL}'; `outthink methods` lists them.")
    return list(found)
