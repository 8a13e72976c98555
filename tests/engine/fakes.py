"""A backend whose logits are a hash of the tokens that it reads back from its own pages, and what it ought to say.

A page that is lost, shared wrongly, copied late or taken from the wrong branch changes the hash, and with it the tokens
that are drawn: so the content of every page is checked wherever tokens are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.sampler import Row, sample
from outthink.kernels.step import Int32s, StepBatch

PIECES = (b"a", b"b", b"c", b"ab", b"bc", b" ", b"\xc3", b"\xa9", "né".encode(), b"\n", b"", b"")
END, MARK = 10, 11
VOCAB_SIZE = len(PIECES)
_MASK = (1 << 64) - 1


class FakeVocabulary:
    """Twelve tokens: some end inside a character, some spell others together, one ends a text, one is a mark."""

    vocab_size = VOCAB_SIZE
    eos_ids = (END,)

    def token_bytes(self, token: int) -> bytes:
        return PIECES[token]

    def is_special(self, token: int) -> bool:
        return token in (END, MARK)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        tokens, rest = [], text.encode()
        while rest:
            token = max((t for t, p in enumerate(PIECES) if p and rest.startswith(p)), key=lambda t: len(PIECES[t]))
            tokens.append(token)
            rest = rest[len(PIECES[token]) :]
        return tokens

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return b"".join(PIECES[i] for i in ids).decode(errors="replace")


class HashBackend:
    """KV is one number a position: a chain hash of the tokens up to there. Logits hash all of a sequence's numbers."""

    name = "hash"

    def __init__(self, num_pages: int, page_size: int, break_at_step: int | None = None) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._garbage = random.Random(0)
        self.memory = [[self._garbage.getrandbits(64) for _ in range(page_size)] for _ in range(num_pages)]
        self.steps, self.break_at_step = 0, break_at_step
        self.batch_sizes: list[int] = []

    def spoil(self, pages: Sequence[int]) -> None:
        """Overwrite pages that nobody should read again."""
        for page in pages:
            self.memory[page] = [self._garbage.getrandbits(64)] * self.page_size

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        assert len(set(target.tolist())) == len(target), "two copies into one page"
        held = [list(self.memory[page]) for page in source]
        for page, content in zip(target, held, strict=True):
            self.memory[page] = content

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        self.steps += 1
        if self.steps == self.break_at_step:
            raise RuntimeError("the device fell off")
        assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in vars(batch).values())
        starts, positions = batch.query_starts.tolist(), batch.positions.tolist()
        sequence_of, written = {}, set()
        self.batch_sizes.append(len(positions))
        for s in range(len(batch.context_lengths)):
            table, size = batch.page_tables[s].tolist(), self.page_size
            assert positions[starts[s + 1] - 1] + 1 == batch.context_lengths[s]
            for row in range(starts[s], starts[s + 1]):
                position = positions[row]
                assert position == positions[starts[s]] + row - starts[s], "positions of a slice are not consecutive"
                page, slot = table[position // size], position % size
                assert (page, slot) not in written, "a slot is written twice in one step"
                written.add((page, slot))
                before = self.memory[table[(position - 1) // size]][(position - 1) % size] if position else 0
                self.memory[page][slot] = mix(before, int(batch.tokens[row]))
                sequence_of[row] = s
        out = np.empty((len(batch.logit_rows), VOCAB_SIZE), dtype=np.float32)
        for r, row in enumerate(batch.logit_rows.tolist()):
            table = batch.page_tables[sequence_of[row]].tolist()
            content = [self.memory[table[p // self.page_size]][p % self.page_size] for p in range(positions[row] + 1)]
            out[r] = _logits(content)
        return out


def true_logits(tokens: Sequence[int]) -> NDArray[np.float32]:
    """What the backend must answer after ``tokens``."""
    return _true_logits(tuple(tokens))


@lru_cache(maxsize=200_000)
def _true_logits(tokens: tuple[int, ...]) -> NDArray[np.float32]:
    content, value = [], 0
    for token in tokens:
        value = mix(value, token)
        content.append(value)
    return _logits(content)


def _logits(content: list[int]) -> NDArray[np.float32]:
    digest = 0
    for value in content:
        digest = (digest * 0x100000001B3 + value) & _MASK
    return np.array([mix(digest, token) / 2.0**64 * 6 for token in range(VOCAB_SIZE)], dtype=np.float32)


@dataclass(frozen=True)
class Expected:
    """What a child must be: its tokens, why it stopped, and its text with and without the stop string."""

    tokens: tuple[int, ...]
    finish: str
    text: str
    completion: str
    log_probs: tuple[float, ...]


def expected_child(
    prefix: Sequence[int], key: int, until: Until, sampling: Sampling, prompt_length: int, limit: int
) -> Expected:
    """Grow one child alone, one token after the other, with neither pages nor batches."""
    tokens, drawn, spelled, log_probs = list(prefix), [], b"", []
    finish, end = "length", None
    while len(tokens) < limit and (until.max_tokens is None or len(drawn) < until.max_tokens):
        row = Row(sampling, key, len(tokens), tokens[:prompt_length], tokens[prompt_length:])
        draws = sample(true_logits(tokens)[None], [row])
        token = int(draws.tokens[0])
        log_probs.append(float(draws.log_probs[0]))
        tokens.append(token)
        drawn.append(token)
        before, spelled = spelled, spelled + PIECES[token]
        if token in until.stop_tokens or (token == END and not until.ignore_eos):
            finish, end = "stop", len(before)
            break
        ends = [spelled.find(stop.encode()) for stop in until.stop if stop.encode() in spelled]
        if ends and not any(stop.encode() in before for stop in until.stop):
            finish, end = "stop", min(ends)
            break
    text = spelled.decode(errors="replace")
    completion = text if end is None else spelled[:end].decode(errors="replace")
    return Expected(tuple(drawn), finish, text, completion, tuple(log_probs))
