"""What forecasts a potential for twisted SMC: a `Twist`, one that was learned and saved, or a verifier of steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.thought import Thought
from outthink.lm.needs import check_needs
from outthink.lm.protocol import LM, Branch
from outthink.posterior.potential import Prefix, Twist
from outthink.posterior.twist import SUFFIX, LinearTwist
from outthink.reason.particles.target import prefix_of
from outthink.verify import Verifier, opened
from outthink.verify.needs import check_verifier

TOKENS, STEPS = "tokens:1", "newline"


class Guide(Protocol):
    """Forecasts for branches. ``steps``: after what particles are best weighed by it, as `Segmenter.of` has it."""

    @property
    def steps(self) -> str: ...

    async def log_twists(self, branches: Sequence[Branch]) -> list[float]:
        """See `Twist.log_twist`; for many branches at once."""
        ...

    def log_biases(self, branch: Branch) -> Mapping[int, float]:
        """See `Twist.log_biases`."""
        ...


class NoTwist:
    """No forecast: particles are not told apart before they are whole."""

    needs = ()

    def log_twist(self, prefix: Prefix) -> float:
        """0 for every prefix."""
        return 0.0

    def log_biases(self, prefix: Prefix) -> Mapping[int, float]:
        """None: the model proposes."""
        return {}


class Forecast:
    """A `Twist`, asked of every prefix."""

    steps = TOKENS

    def __init__(self, twist: Twist) -> None:
        self.twist = twist

    async def log_twists(self, branches: Sequence[Branch]) -> list[float]:
        """See `Guide.log_twists`."""
        return [self.twist.log_twist(prefix_of(branch, False)) for branch in branches]

    def log_biases(self, branch: Branch) -> Mapping[int, float]:
        """See `Guide.log_biases`."""
        return self.twist.log_biases(prefix_of(branch, False))


class Reading:
    """A verifier of unfinished lines as the forecast; its score is the log of it (nats), and it proposes nothing.

    A process reward model that reads log P(right | prefix) is the learned twist of "the answer is right". It is read
    where a line of text ends; until the next one ends its last reading stands. Before the first it is that of the
    prompt alone.
    """

    steps = STEPS

    def __init__(self, question: Question, verifier: Verifier, ledger: Ledger) -> None:
        if not verifier.partial:
            raise UserError(
                f"The verifier '{verifier.name}' judges finished lines alone, so that it can forecast nothing; a twist "
                "is one that judges steps, such as prm."
            )
        verifier.require(question)
        self.question, self.verifier, self.ledger = question, verifier, ledger
        self._read: dict[Thought, float] = {}

    async def log_twists(self, branches: Sequence[Branch]) -> list[float]:
        """See `Guide.log_twists`."""
        places = [_last_step(branch) for branch in branches]
        if new := list({at.thought: at for at in places if at.thought not in self._read}.values()):
            scores = await self.verifier.score(self.question, new, self.ledger)
            self._read |= {at.thought: score for at, score in zip(new, scores, strict=True)}
        return [self._read[at.thought] for at in places]

    def log_biases(self, branch: Branch) -> Mapping[int, float]:
        """None: the model proposes."""
        return {}


@asynccontextmanager
async def guided(
    twist: Twist | Verifier | str | None, question: Question, lm: LM, ledger: Ledger
) -> AsyncIterator[Guide]:
    """The guide that ``twist`` is: a `Twist`, a verifier, or what a command calls one: FILE.json that `outthink twist`
    wrote, or a verifier's name. One that was opened is closed afterwards.

    Raises CheckpointError for a file that is no twist, UserError for one of other tokens and for a verifier that judges
    no steps, and CapabilityError where ``lm`` lacks what it needs; before anything is spent.
    """
    if isinstance(twist, str) and twist.endswith(SUFFIX):
        twist = LinearTwist.load(Path(twist))
    if isinstance(twist, LinearTwist):
        _check_tokens(twist, lm)
    found = NoTwist() if twist is None else twist
    if isinstance(found, Twist):
        check_needs(getattr(found, "needs", ("token_ids", "biased_log_probs")), lm, "The twist")
        yield Forecast(found)
        return
    async with opened(found, lm) as verifier:
        assert verifier is not None
        check_verifier(lm, verifier)
        yield Reading(question, verifier, ledger)


def _last_step(branch: Branch) -> Branch:
    """The nearest of ``branch`` and those above it in which a line of text ends; the root where there is none."""
    while branch.parent is not None and "\n" not in branch.text:
        branch = branch.parent
    return branch


def _check_tokens(twist: LinearTwist, lm: LM) -> None:
    known = tokenizer_of(lm)
    if twist.tokenizer and known and known != twist.tokenizer:
        raise UserError(f"The twist was learned with another tokenizer than that of {lm.name}: learn one for it.")


def tokenizer_of(lm: LM) -> str:
    """The fingerprint of the model's tokenizer; empty where it is not at hand."""
    return str(getattr(getattr(lm, "tokenizer", None), "fingerprint", ""))
