"""A language model small enough to enumerate: the exact truth that every method is tested against."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from outthink.core.budget import Ledger
from outthink.core.errors import PromptError, SamplingError
from outthink.core.question import Prompt
from outthink.core.rng import mix, uniforms
from outthink.core.sampling import Sampling, Until
from outthink.core.thought import Thought
from outthink.engine.checks import check_options
from outthink.engine.sampler import Row, sample
from outthink.lm.branch import BaseBranch
from outthink.lm.protocol import Branch, OnToken

Law = Callable[[tuple[int, ...]], NDArray[np.float64]]
END = "<end>"


def random_law(seed: int, size: int, sharpness: float = 1.5) -> Law:
    """Logits [size] that are a fixed pseudo-random function of the whole prefix."""

    def law(prefix: tuple[int, ...]) -> NDArray[np.float64]:
        key = seed
        for token in prefix:
            key = mix(key, token)
        counters = np.arange(size, dtype=np.uint64)
        draw = uniforms(np.full(size, key, dtype=np.uint64), counters)
        return -sharpness * np.log(-np.log(draw))

    return law


class ToyLM:
    """An `LM` whose tokens are the characters of ``alphabet``, then an end token, with logits ``law(prefix)``.

    ``context`` bounds prompt and text together. One FLOP a position, so that bills can be checked by hand.
    """

    name = "toy"

    def __init__(
        self,
        law: Law,
        alphabet: str = "ab",
        ledger: Ledger | None = None,
        sampling: Sampling | None = None,
        context: int = 64,
        tree: Thought | None = None,
    ) -> None:
        self.law, self.alphabet, self.context = law, alphabet, context
        self.ledger, self.sampling, self.tree = ledger or Ledger(), sampling or Sampling(), tree or Thought()
        self.end = len(alphabet)

    def with_sampling(self, sampling: Sampling) -> ToyLM:
        """The same model, ledger and tree with other default sampling."""
        return ToyLM(self.law, self.alphabet, self.ledger, sampling, self.context, self.tree)

    def with_ledger(self, ledger: Ledger) -> ToyLM:
        """The same model, sampling and tree on another bill."""
        return ToyLM(self.law, self.alphabet, ledger, self.sampling, self.context, self.tree)

    @property
    def fingerprint(self) -> str:
        """Equal for toys with the same tokens."""
        return self.alphabet

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end token."""
        return (self.end,)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, the end token included."""
        return self.end + 1

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text; nothing for the end token."""
        return self.spell([token]).encode()

    def is_special(self, token: int) -> bool:
        """Whether a token marks structure: the end token does."""
        return token == self.end

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids; PromptError for a character outside the alphabet."""
        if isinstance(prompt, str):
            if bad := set(prompt) - set(self.alphabet):
                raise PromptError(f"The toy model's alphabet {self.alphabet!r} has no {sorted(bad)[0]!r}.")
            return tuple(self.alphabet.index(c) for c in prompt)
        if all(isinstance(token, int) for token in prompt):
            return tuple(prompt)  # type: ignore[arg-type]
        return self.encode("".join(str(m["content"]) for m in prompt))  # type: ignore[index, call-overload]

    def spell(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``; the end token spells nothing."""
        return "".join(self.alphabet[t] for t in tokens if t != self.end)

    def log_probs(self, prefix: Sequence[int]) -> NDArray[np.float64]:
        """The law of the next token [len(alphabet) + 1], in nats."""
        logits = self.law(tuple(prefix))
        return logits - np.logaddexp.reduce(logits)

    def enumerate(self, prompt: str, max_tokens: int) -> Iterator[tuple[str, float, str]]:
        """Every line that can be sampled below ``prompt`` at temperature 1: (text, log-probability, finish)."""
        stack: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        start = self.encode(prompt)
        while stack:
            line, total = stack.pop()
            if line and line[-1] == self.end:
                yield self.spell(line), total, "stop"
            elif len(line) == max_tokens:
                yield self.spell(line), total, "length"
            else:
                law = self.log_probs(start + line)
                stack += [((*line, t), total + float(law[t])) for t in range(self.end + 1)]

    async def root(self, prompt: Prompt) -> ToyBranch:
        """See `LM.root`."""
        tokens = self.encode(prompt)
        if not 0 < len(tokens) < self.context:
            raise PromptError(f"A prompt of {len(tokens)} tokens; the toy model takes 1 to {self.context - 1}.")
        return ToyBranch(self, None, self.tree.child(), mix(0, 0), tokens, unpaid=len(tokens))


class ToyBranch(BaseBranch):
    """A branch of a `ToyLM`. Gives way to other tasks once per token, as a real engine would."""

    def __init__(
        self,
        lm: ToyLM,
        parent: ToyBranch | None,
        thought: Thought,
        key: int,
        prefix: tuple[int, ...],
        unpaid: int = 0,
    ) -> None:
        super().__init__(parent, thought, key)
        self._lm, self._prefix, self._unpaid = lm, prefix, unpaid

    @property
    def vocabulary(self) -> ToyLM:
        """What constraints are told of the tokens."""
        return self._lm

    async def extend(
        self,
        n: int = 1,
        until: Until | None = None,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
    ) -> list[Branch]:
        """See `Branch.extend`."""
        self.refuse_if_closed("extend")
        if n < 0:
            raise SamplingError(f"n={n!r} is out of range: it must be a whole number of at least 0.")
        if n == 0:
            return []
        lm: ToyLM = self._lm
        until, sampling = until or Until(), self.sampling_of(sampling)
        check_options(sampling, until, lm.end + 1)
        children = [ToyBranch(lm, self, self.thought.child(), key, self._prefix) for key in self.next_keys(n)]
        if not self._pay_prompt():
            children = [child.finish_with("budget") for child in children]
        while growing := [(i, c) for i, c in enumerate(children) if c.finish is None]:
            for index, child in growing:
                child.grow(until, sampling, index, on_token)
            await asyncio.sleep(0)
        for child in children:
            child.record()
        return [*children]

    async def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Branch.score`."""
        self.refuse_if_closed("score")
        tokens, log_probs = self._lm.encode(text), []
        if not self._pay_prompt():
            return []
        for i, token in enumerate(tokens):
            if i and not self._charge(prefilled=1):
                break
            log_probs.append(float(self._lm.log_probs((*self._prefix, *tokens[:i]))[token]))
        return log_probs

    async def feed(self, text: str | Sequence[int]) -> ToyBranch:
        """See `Branch.feed`."""
        self.refuse_if_closed("feed")
        tokens, (key,) = self._lm.encode(text), self.next_keys(1)
        if len(self._prefix) + len(tokens) > self._lm.context:
            raise PromptError(f"{len(tokens)} more tokens do not fit into {self._lm.context}.")
        child = ToyBranch(self._lm, self, self.thought.child(), key, self._prefix + tokens, self._unpaid + len(tokens))
        self._unpaid = 0
        child.tokens, child.text = tokens, self._lm.spell(tokens)
        child.completion = child.text
        child.record()
        return child

    def grow(self, until: Until, sampling: Sampling, index: int, on_token: OnToken | None) -> None:
        """Draw one token, or finish."""
        lm = self._lm
        if len(self._prefix) >= lm.context:
            self.finish_with("length")
            return
        if not self._charge(decoded=1):
            self.finish_with("budget")
            return
        logits = lm.law(self._prefix).astype(np.float32)
        allowed = None if sampling.constraint is None else self.state_of(sampling.constraint).allowed()
        row = Row(sampling, self.key, len(self._prefix), self._prefix, self.tokens, allowed)
        drawn = sample([logits], [row])
        token = int(drawn.tokens[0])
        self._prefix, self.tokens = (*self._prefix, token), (*self.tokens, token)
        self.log_probs = (*self.log_probs, float(drawn.log_probs[0]))
        self.sample_log_probs = (*self.sample_log_probs, float(drawn.sample_log_probs[0]))
        if sampling.top_logprobs:
            self.top_log_probs = (*self.top_log_probs, drawn.top[0])
        piece = lm.spell([token])
        self.text = self.completion = self.text + piece
        if on_token is not None:
            on_token(index, piece)
        stops = [(at, stop) for stop in until.stop if (at := self.text.find(stop)) >= 0]
        if token in until.stop_tokens or (token == lm.end and not until.ignore_eos):
            self.ended = token == lm.end
            self.finish_with("stop")
        elif stops:
            self.completion = self.text[: min(stops)[0]]
            self.finish_with("stop")
        elif len(self.tokens) == until.max_tokens or len(self._prefix) >= lm.context:
            self.finish_with("length")

    def finish_with(self, finish: str) -> ToyBranch:
        """Set why this branch stopped."""
        self.finish = finish
        return self

    def _pay_prompt(self) -> bool:
        if self._unpaid and not self._charge(prefilled=self._unpaid, spare=1):
            return False
        self._unpaid = 0
        return not self._lm.ledger.exhausted

    def _charge(self, *, prefilled: int = 0, decoded: int = 0, spare: int = 0) -> bool:
        """Charge the ledger if it can pay, ``spare`` tokens left over included; whether it could."""
        ledger, amount = self._lm.ledger, prefilled + decoded
        if ledger.exhausted or ledger.tokens_left < amount + spare or ledger.flops_left < amount:
            return False
        ledger.charge(prefilled=prefilled, decoded=decoded, flops=amount)
        return True


def exact_posterior(
    lm: ToyLM, prompt: str, max_tokens: int, parse: Callable[[str], str | None]
) -> dict[str | None, float]:
    """The model's own law over answers, by enumeration; None collects lines without an answer."""
    law: dict[str | None, float] = {}
    for text, log_prob, _ in lm.enumerate(prompt, max_tokens):
        answer = parse(text)
        law[answer] = law.get(answer, 0.0) + math.exp(log_prob)
    return law
