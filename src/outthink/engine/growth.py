"""The growth of children: their birth, the tokens that they draw, their text, and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Tokens
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import SamplingError
from outthink.core.rng import mix
from outthink.core.sampling import Sampling
from outthink.engine.billing import Draw, Stats, split_affordable
from outthink.engine.sampler import Row, sample
from outthink.engine.sequence import Extend, Generation, Reading, Sequence, Task
from outthink.kernels.step import Backend, Decoder, Laws
from outthink.scheduling import Scheduler


class Vocabulary(Protocol):
    """What the engine asks of a tokenizer."""

    @property
    def eos_ids(self) -> Iterable[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def is_special(self, token_id: int) -> bool: ...


class Pieces(dict[int, bytes]):
    """What each token adds to a text, spelled when first asked for; marks of structure add nothing."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, token: int) -> bytes:
        special = self._vocabulary.is_special(token)
        piece = self[token] = b"" if special else self._vocabulary.token_bytes(token)
        return piece


class Growth:
    """Draws tokens for children, and ends them.

    ``over`` is called with an `Extend` all of whose children have ended, ``fail`` with one that has come to an error.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        scheduler: Scheduler[Sequence],
        stats: Stats,
        over: Callable[[Extend], None],
        fail: Callable[[Extend, BaseException], None],
    ) -> None:
        self.decoder = backend if isinstance(backend, Decoder) else None
        self.pieces, self.eos = Pieces(vocabulary), frozenset(vocabulary.eos_ids)
        self._scheduler, self._stats, self._over, self._fail = scheduler, stats, over, fail

    def begin(self, extend: Extend, child: Sequence) -> Sequence:
        """Make ``child`` the next child of ``extend``."""
        index = len(extend.children)
        key = mix(int(extend.sampling.seed), extend.keys[index])
        child.gang, child.generation = extend.gang, Generation(extend, index, len(child.tokens), key)
        child.generation.state = None if extend.state is None else extend.state.copy()
        extend.children.append(child)
        extend.growing += 1
        return child

    def draw(self, draws: Tokens[Draw]) -> None:
        """Draw a token for each sequence that may still pay for one; finish those that stop or may not."""
        affordable, others = split_affordable(self._constrained(draws))
        for sequence, logits in others:
            if sequence.tail_logits is not logits:  # nothing follows them, so they stay the last
                sequence.tail_logits = logits.copy()
            self.finish(sequence, "budget")
        self._stats.drawn += len(affordable)
        compiled = [draw for draw in affordable if self.decoder is not None and generation_of(draw[0]).extend.plain]
        by_hand = affordable
        if compiled:
            self._draw_compiled(compiled)
            by_hand = [draw for draw in affordable if not generation_of(draw[0]).extend.plain]
        if by_hand:
            self._draw_by_hand(by_hand)

    def _constrained(self, draws: Tokens[Draw]) -> Tokens[Draw]:
        """Find out what each sequence that is kept within a language may draw; fail the tasks of those that are stuck.
        Returns the draws that are left.
        """
        if all(generation_of(sequence).state is None for sequence, _ in draws):
            return draws
        for sequence, _ in draws:
            generation = generation_of(sequence)
            if not generation.extend.over:
                try:
                    generation.constrain(sequence.tokens)
                except SamplingError as error:
                    self._fail(generation.extend, error)
        return [draw for draw in draws if not generation_of(draw[0]).extend.over]

    def _draw_compiled(self, draws: Tokens[Draw]) -> None:
        assert self.decoder is not None
        sequences = [sequence for sequence, _ in draws]
        positions = np.array([len(sequence.tokens) for sequence in sequences], dtype=np.int32)
        logits = np.stack([logits for _, logits in draws])
        drawn = self.decoder.sample(logits, positions, laws(map(generation_of, sequences)))
        tokens, log_probs, sample_log_probs = (array.tolist() for array in drawn)
        for i, sequence in enumerate(sequences):
            self._accept(sequence, tokens[i], log_probs[i], sample_log_probs[i], [])

    def _draw_by_hand(self, draws: Tokens[Draw]) -> None:
        drawn = sample([logits for _, logits in draws], [_row(sequence) for sequence, _ in draws])
        tokens, log_probs = drawn.tokens.tolist(), drawn.log_probs.tolist()
        sample_log_probs = drawn.sample_log_probs.tolist()
        for i, (sequence, _) in enumerate(draws):
            self._accept(sequence, tokens[i], log_probs[i], sample_log_probs[i], drawn.top[i])

    def _accept(
        self,
        sequence: Sequence,
        token: int,
        log_prob: float,
        sample_log_prob: float,
        top: list[tuple[int, float]],
    ) -> None:
        generation = generation_of(sequence)
        if generation.extend.sampling.top_logprobs:
            generation.top_log_probs.append(top)
        sequence.tokens.append(token)
        self.take(sequence, [token], [log_prob], [sample_log_prob], top)
        if generation.finish is None and len(sequence.tokens) == generation.start + 1:
            self._scheduler.add(sequence)

    def take(
        self,
        sequence: Sequence,
        tokens: list[int],
        log_probs: list[float],
        sample_log_probs: list[float],
        top: Tokens[tuple[int, float]] = (),
    ) -> None:
        """Take in the tokens that ``sequence`` now ends with, only the last of which may be its last."""
        generation = generation_of(sequence)
        sequence.tail_logits = None
        sequence.billed = len(sequence.tokens)
        generation.log_probs += log_probs
        generation.sample_log_probs += sample_log_probs
        extend = generation.extend
        if extend.progress is not None:
            extend.progress.advance(generation.index, len(tokens))
        watched = extend.on_token is not None or extend.on_draw is not None
        for token, log_prob in zip(tokens[:-1], log_probs[:-1], strict=True):
            generation.text += (piece := self.pieces[token])
            if watched:
                _draw_and_show(generation, token, log_prob, (), piece)
        finish = generation.accept(tokens[-1], piece := self.pieces[tokens[-1]], self.eos, len(sequence.tokens))
        if watched:
            _draw_and_show(generation, tokens[-1], log_probs[-1], top, piece)
        if finish is not None:
            self.finish(sequence, finish)

    def finish(self, child: Sequence, finish: str) -> None:
        """End a child; it comes to rest, and its task is over where it was the last to grow."""
        generation = generation_of(child)
        extend = generation.extend
        generation.finish = finish
        _show(generation, b"")
        if extend.on_end is not None:
            extend.on_end(child)
        self._scheduler.rest(child)
        extend.growing -= 1
        if extend.growing == 0 and len(extend.children) == len(extend.keys):
            self._over(extend)


def generation_of(sequence: Sequence) -> Generation:
    """The growing end of a sequence that has one."""
    assert sequence.generation is not None
    return sequence.generation


def num_unborn(task: Task) -> int:
    """How many children a task has yet to begin."""
    return len(task.keys) - len(task.children) if isinstance(task, Extend) else 0


def grown_by(task: Task) -> list[Sequence]:
    """The sequences that a task has grown."""
    if isinstance(task, Extend):
        return list(task.children)
    return [task.sequence] if isinstance(task, Reading) and task.sequence is not None else []


def laws(generations: Iterable[Generation]) -> Laws:
    """The distributions that plain extensions draw from, one row for each of these."""
    generations = list(generations)
    columns = zip(*(_law(generation.extend.sampling) for generation in generations), strict=True)
    temperature, top_p, min_p, top_k = columns
    keys = np.array([generation.key for generation in generations], dtype=np.uint64)
    return Laws(keys, np.array(temperature, float), np.array(top_p, float), np.array(min_p, float), _ints(top_k))


def _law(sampling: Sampling) -> tuple[float, float, float, int]:
    return sampling.temperature, sampling.top_p, sampling.min_p, min(sampling.top_k or 0, (1 << 31) - 1)


def _ints(values: Tokens[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def _draw_and_show(
    generation: Generation, token: int, log_prob: float, top: Tokens[tuple[int, float]], piece: bytes
) -> None:
    """Tell of a token, then of the text that it completes."""
    if (on_draw := generation.extend.on_draw) is not None:
        on_draw(generation.index, token, log_prob, top)
    _show(generation, piece)


def _show(generation: Generation, piece: bytes) -> None:
    """Stream what a token adds to the text, as far as it is complete as UTF-8; all of it where the text ends."""
    if (on_token := generation.extend.on_token) is None:
        return
    text = generation.decoder.decode(piece, generation.finish is not None)
    if text:
        on_token(generation.index, text)


def _row(sequence: Sequence) -> Row:
    generation = generation_of(sequence)
    sampling, prompt_length = generation.extend.sampling, generation.extend.prompt.length
    key, tokens = generation.extend.keys[generation.index], sequence.tokens
    if not sampling.needs_history:
        return Row(sampling, key, len(tokens), allowed=generation.allowed)
    return Row(sampling, key, len(tokens), tokens[:prompt_length], tokens[prompt_length:], generation.allowed)
