"""llama.cpp as a runner, through the C interface that its Python package exposes: no Python between its steps but
the filling of a batch and the choice of the likeliest token.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import llama_cpp as lc  # pyright: ignore[reportMissingImports]
import numpy as np
from protocol import serve

Position = tuple[int, int, int, bool]  # token, position, sequence, whether its logits are wanted


class Context:
    """KV memory for some sequences: ``shared`` where they have a prefix in common, else apart from each other."""

    def __init__(self, model: Any, sequences: int, positions: int, threads: int, shared: bool) -> None:
        parameters = lc.llama_context_default_params()
        parameters.n_ctx = positions
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = shared
        parameters.no_perf = True
        self.context = lc.llama_init_from_model(model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.vocab_size = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
        self.memory = lc.llama_get_memory(self.context)
        self.batch = lc.llama_batch_init(512, 0, 1)

    def clear(self) -> None:
        """Forget every sequence."""
        lc.llama_memory_clear(self.memory, True)

    def step(self, positions: Sequence[Position]) -> list[int]:
        """Compute positions; the likeliest token after each whose logits are wanted."""
        batch, wanted = self.batch, []
        for i, (token, position, sequence, logits) in enumerate(positions):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = logits
            if logits:
                wanted.append(i)
        batch.n_tokens = len(positions)
        if lc.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        drawn = []
        for i in wanted:
            logits = ctypes.cast(lc.llama_get_logits_ith(self.context, i), ctypes.POINTER(ctypes.c_float))
            drawn.append(int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax()))
        return drawn

    def grow(self, last: list[int], lengths: Iterable[int], steps: int) -> list[list[int]]:
        """``steps`` tokens after ``last``, for sequences of these lengths."""
        drawn, ends = [], list(lengths)
        for step in range(steps):
            last = self.step(
                [(token, end + step, s, True) for s, (token, end) in enumerate(zip(last, ends, strict=True))]
            )
            drawn.append(last)
        return [list(tokens) for tokens in zip(*drawn, strict=True)]


class LlamaCpp:
    """See `protocol.Runner`."""

    def __init__(self, path: str, threads: int) -> None:
        lc.llama_log_set(_QUIET, ctypes.c_void_p(0))
        lc.llama_backend_init()
        self.threads = threads
        self.model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.contexts: dict[tuple[int, bool], Context] = {}
        self.told = {"settings": {"kv": "float16", "system": lc.llama_print_system_info().decode()}}

    def _context(self, sequences: int, positions: int, shared: bool = False) -> Context:
        if (sequences, shared) not in self.contexts:
            self.contexts[sequences, shared] = Context(self.model, sequences, positions, self.threads, shared)
        context = self.contexts[sequences, shared]
        context.clear()
        return context

    def decode(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        context = self._context(len(prompts), 512 * len(prompts) if len(prompts) > 1 else 1024)
        first = [_prefill(context, prompt, s) for s, prompt in enumerate(prompts)]
        start = perf_counter()
        grown = context.grow(first, map(len, prompts), new_tokens)
        return perf_counter() - start, [[token, *more] for token, more in zip(first, grown, strict=True)]

    def prefill(self, prompt: list[int]) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        context = self._context(1, 1024)
        start = perf_counter()
        token = _prefill(context, prompt, 0)
        return perf_counter() - start, [[token]]

    def branches(self, prompt: list[int], firsts: list[int], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        context = self._context(len(firsts), len(prompt) + len(firsts) * (new_tokens + 8), shared=True)
        start = perf_counter()
        _prefill(context, prompt, 0)
        for sequence in range(1, len(firsts)):
            lc.llama_memory_seq_cp(context.memory, 0, sequence, -1, -1)
        grown = context.grow(firsts, [len(prompt)] * len(firsts), new_tokens)
        return perf_counter() - start, grown


def _prefill(context: Context, prompt: list[int], sequence: int) -> int:
    positions = [(token, i, sequence, i == len(prompt) - 1) for i, token in enumerate(prompt)]
    return context.step(positions)[0]


@lc.llama_log_callback
def _QUIET(level: int, text: bytes, _data: Any) -> None:  # noqa: N802  kept for as long as the library may call it
    if level >= 4:  # errors
        print(text.decode(errors="replace"), end="")


def load(asked: dict[str, Any]) -> LlamaCpp:
    """The runner of a ``load`` request."""
    return LlamaCpp(asked["model"], asked["threads"])


if __name__ == "__main__":
    serve(load, ("llama-cpp-python",))
