"""genlm-control's sequential Monte Carlo over its Hugging Face backend; and the exact law that it estimates."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "engine" / "drivers")]

import numpy as np
import torch
from genlm.control import PromptedLLM, direct_token_sampler  # pyright: ignore[reportMissingImports]
from genlm.control.constant import EOS  # pyright: ignore[reportMissingImports]
from genlm.control.potential import Potential  # pyright: ignore[reportMissingImports]
from protocol import serve
from scorer import cell_of, log_potential


class Odd(Potential):
    """`scorer.log_potential` of the ids of the tokens."""

    def __init__(self, vocabulary: list[Any], allowed: list[int] | None) -> None:
        super().__init__(vocabulary)
        self.allowed = allowed

    async def complete(self, context: Any) -> float:
        """Of a whole line."""
        return log_potential([token.token_id for token in context if token is not EOS], self.allowed)

    async def prefix(self, context: Any) -> float:
        """Of a line on its way."""
        return await self.complete(context)


class GenLM:
    """One model, and a count of the positions that it computes."""

    def __init__(self, model: str, end: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        options = {"torch_dtype": torch.float32, "device_map": "cpu"}
        self.llm = PromptedLLM.from_name(model, backend="hf", eos_byte_strings=[end.encode()], hf_opts=options)
        self.positions = 0
        self.llm.model.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = arguments[0] if arguments else named["input_ids"]
        self.positions += ids.numel()

    def sample(
        self, prompt: list[int], particles: int, tokens: int, runs: int, cached: bool, allowed: list[int] | None
    ) -> dict[str, Any]:
        """``runs`` populations, one after the other, of lines of just ``tokens`` tokens. ``cached``: by its own prompt
        cache. Seconds and positions of all; the weight of each kind of line, where tokens are limited.
        """
        self.positions, masses = 0, defaultdict[str, float](float)
        seconds = 0.0
        for _ in range(runs):
            start = perf_counter()
            found = asyncio.run(self._sample(prompt, particles, tokens, cached, allowed))
            seconds += perf_counter() - start
            for context, log_weight in found if allowed is not None else ():
                ids = [token.token_id for token in context if token is not EOS]
                if log_weight > -np.inf:
                    masses[cell_of(ids, allowed or [])] += float(np.exp(log_weight)) / particles
        return {"seconds": seconds, "positions": self.positions, "masses": dict(masses)}

    async def _sample(
        self, prompt: list[int], particles: int, tokens: int, cached: bool, allowed: list[int] | None
    ) -> Any:
        self.llm.model.clear_cache()
        if cached:
            self.llm.model.cache_kv(prompt)
        self.llm.prompt_ids = prompt
        sampler = direct_token_sampler(self.llm)
        return await sampler.smc(
            n_particles=particles,
            ess_threshold=0.5,
            max_tokens=tokens + 2,
            critic=Odd(self.llm.vocab, allowed),
            resampling_method="systematic",
            terminate_when=lambda context: len(context) >= tokens,
        )

    @torch.no_grad()
    def enumerate(self, prompt: list[int], tokens: int, allowed: list[int]) -> dict[str, Any]:
        """The exact weight of each kind of line of ``tokens`` tokens out of ``allowed``, by the model's own forward
        pass over every prefix.
        """
        masses, model = defaultdict[str, float](float), self.llm.model.model
        laws: dict[tuple[int, ...], Any] = {}
        for length in range(tokens):
            prefixes = list(itertools.product(allowed, repeat=length))
            for some in (prefixes[at : at + 64] for at in range(0, len(prefixes), 64)):
                logits = model(torch.tensor([[*prompt, *prefix] for prefix in some])).logits[:, -1]
                laws |= zip(some, torch.log_softmax(logits.double(), -1), strict=True)
        for line in itertools.product(allowed, repeat=tokens):
            total = sum(float(laws[line[:at]][token]) for at, token in enumerate(line))
            masses[cell_of(line, allowed)] += float(np.exp(total + log_potential(line, allowed)))
        return {"masses": dict(masses), "prefixes": len(laws)}


def load(asked: dict[str, Any]) -> GenLM:
    """The runner of a ``load`` request."""
    return GenLM(asked["model"], asked["end"], asked["threads"])


if __name__ == "__main__":
    serve(load, ("genlm-control", "genlm-backend", "torch", "transformers"))
