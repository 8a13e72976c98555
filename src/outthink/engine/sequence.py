"""What the engine keeps of each branch: its tokens, its hold on pages, and what is being done with it."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.core.constraint import ConstraintState
from outthink.core.errors import SamplingError
from outthink.core.progress import Progress
from outthink.core.sampling import Sampling, Until
from outthink.engine.sampler import likeliest, log_softmax
from outthink.kv import Lease
from outthink.scheduling import Gang


@dataclass(eq=False, slots=True)
class Sequence:
    """A token prefix in the tree. The KV of its positions may be resident (``lease``) or not; tokens never change
    but for those that its own ``generation`` appends.

    ``billed``: leading positions already charged to somebody as tokens, and ``reached`` as FLOPs, so that recomputing
    them charges nobody; see `progress`. ``parent``: the sequence that this one continues. ``handles``: how many hold
    the sequence open; ``root_key``: under what it is shared.
    ``tail_logits`` [V]: the model's logits after the last token, kept once computed. ``tasks``: what waits for them.
    ``reading``: the task that wants logits after all its last tokens. ``gang``: whom it was last computed for.
    """

    tokens: list[int]
    arrival: int
    namespace: str = ""
    lease: Lease | None = None
    parent: Sequence | None = None
    billed: int = 0
    reached: int = 0
    handles: int = 0
    root_key: tuple[str, tuple[int, ...]] | None = None
    tail_logits: NDArray[np.float32] | None = None
    tasks: list[Task] = field(default_factory=list)
    generation: Generation | None = None
    reading: Reading | None = None
    gang: Gang = field(default_factory=Gang)

    @property
    def reusable(self) -> int:
        """How many leading positions may be found in the cache: those after them must yield logits."""
        if self.reading is not None:
            return self.reading.next_row
        return len(self.tokens) - 1

    @property
    def progress(self) -> tuple[int, int]:
        """Leading positions charged as tokens and as FLOPs, by this sequence or by another child of an ancestor."""
        billed = reached = 0
        sequence: Sequence | None = self
        while sequence is not None:
            billed, reached = max(billed, sequence.billed), max(reached, sequence.reached)
            above = sequence.parent
            sequence = above if above is not None and min(billed, reached) < len(above.tokens) else None
        return billed, reached

    def mark(self, end: int) -> None:
        """Note here and in the ancestors that the positions before ``end`` are charged."""
        sequence: Sequence | None = self
        while sequence is not None and min(sequence.billed, sequence.reached) < (top := min(end, len(sequence.tokens))):
            sequence.billed, sequence.reached = max(sequence.billed, top), max(sequence.reached, top)
            sequence = sequence.parent


@dataclass(eq=False, slots=True)
class Prompt:
    """The prompt that a tree of branches grew from: ``length`` positions, ``unpaid`` of which are on no bill yet."""

    length: int
    unpaid: int


@dataclass(eq=False)
class Task:
    """Work asked of a parent sequence, started once the parent's tail logits are known.

    ``done(result)`` is called once, on the stepping thread, unless the task is cancelled; ``failed(error)`` if the
    engine breaks. ``prompt`` is shared by the tasks of one tree. ``gang``: what it competes with others as; the engine
    knows it by the whole of the ledger.
    """

    parent: Sequence
    ledger: Ledger
    done: Callable[..., None]
    failed: Callable[[BaseException], None]
    prompt: Prompt
    over: bool = False
    gang: Gang = field(default_factory=Gang)


OnDraw = Callable[[int, int, float, Tokens[tuple[int, float]]], None]


@dataclass(eq=False)
class Extend(Task):
    """Grow ``len(keys)`` children; ``keys`` are the random keys of the children. ``done`` gets the list of children.

    ``state``: that of the sampling's constraint after the parent, for the children to go on from.
    ``on_token(child index, text)``, if given, is called with each bit of new text, ``on_end(child)`` as each ends, and
    ``on_draw(child index, token, log-probability, likeliest)`` with each token, before the text that it completes.
    ``progress`` counts the tokens as they are drawn.
    """

    keys: Tokens[int] = ()
    until: Until = field(default_factory=Until)
    sampling: Sampling = field(default_factory=Sampling)
    limit: int = 0
    state: ConstraintState | None = None
    on_token: Callable[[int, str], None] | None = None
    on_draw: OnDraw | None = None
    progress: Progress | None = None
    on_end: Callable[[Sequence], None] | None = None
    children: list[Sequence] = field(default_factory=list)
    growing: int = 0

    @cached_property
    def plain(self) -> bool:
        """Whether a `Decoder` can draw for it: by temperature and by leaving out what is unlikely, and no more."""
        sampling = self.sampling
        by_hand = sampling.logit_bias or sampling.needs_history or sampling.top_logprobs
        return not by_hand and self.state is None


@dataclass(eq=False)
class Reading(Task, ABC):
    """What is read from the logits after each of some given ``tokens`` that follow the parent.

    ``read``: one number for each token so far, in order. ``sequence`` continues the parent while it is computed.
    """

    tokens: Tokens[int] = ()
    read: list[float] = field(default_factory=list)
    sequence: Sequence | None = None

    @property
    def complete(self) -> bool:
        """Whether there is a number for every token."""
        return len(self.read) == len(self.tokens)

    @property
    @abstractmethod
    def price(self) -> int:
        """How many tokens must be there to pay for it before it is begun."""

    @property
    @abstractmethod
    def next_row(self) -> int:
        """The first position whose logits are still wanted."""

    @abstractmethod
    def begin(self, logits: NDArray[np.float32]) -> Tokens[int]:
        """Take in the parent's last logits [V]; returns the tokens whose logits are wanted besides."""

    @abstractmethod
    def take(self, logits: NDArray[np.float32]) -> None:
        """Take in logits [n, V] from position ``next_row`` on."""


@dataclass(eq=False)
class Score(Reading):
    """Log-probabilities of ``tokens`` after the parent. ``done`` gets the list of them; fewer where it was cut.

    ``top``: how many of the likeliest (token, log-probability) to note for each in ``tops``, likeliest first.
    """

    top: int = 0
    tops: list[list[tuple[int, float]]] = field(default_factory=list)

    @property
    def price(self) -> int:
        """See `Reading`."""
        return 1

    @property
    def next_row(self) -> int:
        """See `Reading`."""
        return len(self.parent.tokens) + len(self.read) - 1

    def begin(self, logits: NDArray[np.float32]) -> Tokens[int]:
        """See `Reading`."""
        self.take(logits[None])
        return self.tokens[:-1]

    def take(self, logits: NDArray[np.float32]) -> None:
        """See `Reading`."""
        for law in log_softmax(logits.astype(np.float64)):
            self.read.append(float(law[self.tokens[len(self.read)]]))
            self.tops.append(likeliest(law, self.top))


@dataclass(eq=False)
class Judge(Reading):
    """A reward model's logit after each of ``tokens``. ``done`` gets the list of them and the sequence, which stays
    open for what follows; fewer of them and None where it was cut.
    """

    @property
    def price(self) -> int:
        """See `Reading`. A line of which only a part could be paid would be judged for nothing."""
        return len(self.tokens)

    @property
    def next_row(self) -> int:
        """See `Reading`."""
        return len(self.parent.tokens) + len(self.read)

    def begin(self, logits: NDArray[np.float32]) -> Tokens[int]:
        """See `Reading`."""
        return self.tokens

    def take(self, logits: NDArray[np.float32]) -> None:
        """See `Reading`."""
        self.read += logits[:, 0].tolist()


@dataclass(eq=False, slots=True)
class Generation:
    """The growing end of one child: what it drew, what text that is, and whether it is over.

    ``stop`` is the string or token that it stopped at, which begins at byte ``stop_at`` of ``text``. ``key``: of its
    random numbers, the seed mixed in. ``state``: that of the constraint it is kept within, after the first ``kept`` of
    its tokens; ``allowed`` [V]: what may be drawn next.
    """

    extend: Extend
    index: int
    start: int
    key: int
    log_probs: list[float] = field(default_factory=list)
    sample_log_probs: list[float] = field(default_factory=list)
    top_log_probs: list[list[tuple[int, float]]] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=partial(codecs.getincrementaldecoder("utf-8"), "replace")
    )
    finish: str | None = None
    stop: str | int | None = None
    stop_at: int | None = None
    state: ConstraintState | None = None
    kept: int = 0
    allowed: NDArray[np.bool_] | None = None

    @property
    def completion(self) -> str:
        """The text without the stop string or token."""
        return self.text[: self.stop_at].decode(errors="replace")

    def constrain(self, tokens: Tokens[int]) -> None:
        """Find out what may be drawn after ``tokens``, the whole sequence. Raises SamplingError where nothing may."""
        if self.state is None:
            return
        for token in tokens[self.start + self.kept :]:
            self.state.advance(token)
            self.kept += 1
        self.allowed = self.state.allowed()
        for token, bias in self.extend.sampling.logit_bias.items():
            if bias == -np.inf and token < len(self.allowed):
                self.allowed[token] = False
        if not self.allowed.any():
            raise SamplingError(
                f"After {self.kept:,} tokens the constraint leaves nothing to draw: this vocabulary cannot spell what "
                "must follow, or logit_bias forbids it. Loosen one of them."
            )

    def accept(self, token: int, piece: bytes, eos_ids: frozenset[int], length: int) -> str | None:
        """Take in a drawn token whose bytes are ``piece``; returns why the child stops here, or None.

        ``length`` is the length of the whole sequence with this token.
        """
        until, before = self.extend.until, len(self.text)
        self.text += piece
        if token in until.stop_tokens or (token in eos_ids and not until.ignore_eos):
            self.finish, self.stop, self.stop_at = "stop", token, before
        elif found := self._stop_string(before):
            self.finish = "stop"
            self.stop_at, self.stop = found
        elif length - self.start == until.max_tokens or length >= self.extend.limit:
            self.finish = "length"
        return self.finish

    def _stop_string(self, before: int) -> tuple[int, str] | None:
        """Where the stop string begins that the bytes after ``before`` completed, and which: the first of them."""
        found = []
        for stop in self.extend.until.stop:
            at = self.text.find(needle := stop.encode(), max(0, before - len(needle) + 1))
            if at >= 0:
                found.append((at, stop))
        return min(found, default=None)
