"""Reward models as verifiers: the probability that a line leads to a right answer, read step by step or at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from outthink.core.budget import Ledger
from outthink.core.errors import UnknownNameError, UserError
from outthink.core.question import Question
from outthink.lm.protocol import LM, Branch
from outthink.verify.odds import EVEN, log_mean, log_sigmoid

if TYPE_CHECKING:
    from outthink.lm.reward import RewardModel

AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "product": math.fsum,
    "mean": log_mean,
}


class RewardVerifier:
    """A reward model's log-probability (nats) that a line leads to a right answer: what PRMs and ORMs have in common.

    A line of which nothing could be read, for want of budget, weighs as at even odds. What the model computes is
    charged as the verifier's. ``owns``: `close` stops the model.
    """

    name: str
    kind: ClassVar[str]
    partial: bool
    sound = False

    def __init__(self, model: RewardModel, aggregate: str = "last", *, owns: bool = False) -> None:
        if aggregate not in AGGREGATES:
            raise UnknownNameError("aggregate", aggregate, AGGREGATES)
        if model.kind != self.kind:
            raise UserError(f"{model.name} is a reward model of the {model.kind}; '{self.name}' reads the {self.kind}.")
        self.model, self.aggregate, self._owns = model, aggregate, owns

    @classmethod
    def check(cls, argument: str) -> None:
        """Raise CheckpointError where the model that ``argument`` names, ``[DIRECTORY][:AGGREGATE]``, is not there."""
        from outthink.models.rewards import find_reward

        find_reward(_split(argument)[0], cls.kind)

    @classmethod
    def open(cls, lm: LM | None, argument: str) -> RewardVerifier:
        """The verifier of ``[DIRECTORY][:AGGREGATE]``: beside ``lm`` on its thread where that runs in our engine, else
        on a thread of its own. By default the bundled model that was made for ``lm``. Raises CheckpointError.
        """
        from outthink.lm.reward import load_reward
        from outthink.models.rewards import find_reward

        source, aggregate = _split(argument)
        thread = _thread_of(lm)
        model = load_reward(find_reward(source, cls.kind, "" if lm is None else lm.name), thread)
        return cls(model, aggregate, owns=thread is None)

    def require(self, question: Question) -> None:
        """Raise PromptError where the problem does not fit the reward model's context."""
        self.model.check(question.prompt)

    async def score(self, question: Question, branches: Sequence[Branch], ledger: Ledger) -> list[float]:
        """See `Verifier.score`."""
        ledger.charge(verifier_calls=len(branches))
        lines = await self.model.read(question.prompt, branches, ledger)
        return [self._weigh([log_sigmoid(logit) for logit in logits]) if logits else EVEN for logits in lines]

    def accepts(self, score: float) -> bool:
        """Never: a line that a model thinks well of is not thereby a right one."""
        return False

    def close(self) -> None:
        """Stop the model, where it was loaded for this verifier alone."""
        if self._owns:
            self.model.close()

    def _weigh(self, scores: Sequence[float]) -> float:
        return AGGREGATES[self.aggregate](scores)


class ProcessReward(RewardVerifier):
    """A process reward model (PRM), read after each whole step and at the end of a finished line.

    ``aggregate``: what the scores of a line come to: ``last``, ``min``, ``product``, or ``mean`` of the probabilities
    (Lightman et al. 2023, Let's Verify Step by Step, arXiv:2305.20050, for product and minimum; Snell et al. 2024,
    arXiv:2408.03314, for the last).
    """

    name = "prm"
    kind = "process"
    partial = True


class OutcomeReward(RewardVerifier):
    """An outcome reward model (ORM), read at the end of a line (Cobbe et al. 2021, arXiv:2110.14168).

    Of a line that the model did not end, it is read after the last whole step.
    """

    name = "orm"
    kind = "outcome"
    partial = False

    def __init__(self, model: RewardModel, aggregate: str = "last", *, owns: bool = False) -> None:
        if aggregate != "last":
            raise UserError(
                f"An outcome reward model is read once, so there is no {aggregate!r} of it; leave that out."
            )
        super().__init__(model, aggregate, owns=owns)


def _split(argument: str) -> tuple[str | None, str]:
    """The directory, or None, and the aggregate."""
    source, colon, aggregate = argument.rpartition(":")
    if aggregate in AGGREGATES or (colon and "/" not in aggregate):
        if aggregate not in AGGREGATES:
            raise UnknownNameError("aggregate", aggregate, AGGREGATES)
        return source or None, aggregate
    return argument or None, "last"


def _thread_of(lm: Any) -> Any:
    """The stepping thread of an `LM` in our engine, of several the leader's; None for any other."""
    from outthink.engine.thread import EngineThread

    for each in (lm, *getattr(lm, "lms", ())):
        if isinstance(thread := getattr(each, "thread", None), EngineThread):
            return thread
    return None
