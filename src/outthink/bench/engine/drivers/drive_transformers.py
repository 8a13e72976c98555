"""transformers as a runner: its model called directly with its KV cache, eager or compiled."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from protocol import serve
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache  # pyright: ignore[reportMissingImports]

MAX_POSITIONS = 1024


class Transformers:
    """See `protocol.Runner`."""

    def __init__(self, model: str, threads: int, compiled: bool) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.compiled = compiled
        self.call = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.told = {"settings": {"kv": "bfloat16", "attention": self.model.config._attn_implementation}}

    def _cache(self, positions: int) -> Any:
        if self.compiled:
            return StaticCache(config=self.model.config, max_cache_len=positions)
        return DynamicCache(config=self.model.config)

    def _step(self, ids: torch.Tensor, cache: Any, start: int, call: Any = None) -> torch.Tensor:
        """The likeliest token after the last of ``ids``, [rows, new], which begin at position ``start``."""
        positions = torch.arange(start, start + ids.shape[1])
        output = (call or self.call)(
            input_ids=ids,
            past_key_values=cache,
            position_ids=positions[None].expand(ids.shape[0], -1),
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].argmax(-1)

    def _grow(self, last: torch.Tensor, cache: Any, start: int, steps: int) -> list[list[int]]:
        drawn = []
        for step in range(steps):
            last = self._step(last[:, None], cache, start + step)
            drawn.append(last)
        return torch.stack(drawn, 1).tolist()

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        length = len(prompts[0])
        cache = self._cache(-(-(length + new_tokens) // 64) * 64)
        first = self._step(torch.tensor(prompts), cache, 0, self.model)
        start = perf_counter()
        grown = self._grow(first, cache, length, new_tokens)
        return perf_counter() - start, [[int(token), *more] for token, more in zip(first, grown, strict=True)]

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        start = perf_counter()
        token = self._step(torch.tensor([prompt]), self._cache(len(prompt)), 0)
        return perf_counter() - start, [token.tolist()]

    @torch.inference_mode()
    def branches(self, prompt: list[int], firsts: list[int], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`. The prompt is computed once, and its keys and values copied to every row."""
        if self.compiled:
            raise ValueError("a static cache has no rows to copy a prompt's keys and values to")
        start = perf_counter()
        cache = self._cache(0)
        self._step(torch.tensor([prompt]), cache, 0)
        cache.batch_repeat_interleave(len(firsts))
        grown = self._grow(torch.tensor(firsts), cache, len(prompt), new_tokens)
        return perf_counter() - start, grown


def load(asked: dict[str, Any]) -> Transformers:
    """The runner of a ``load`` request."""
    return Transformers(asked["model"], asked["threads"], asked["compiled"])


if __name__ == "__main__":
    serve(load, ("transformers", "torch"))
