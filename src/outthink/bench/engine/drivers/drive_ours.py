"""Our engine as a runner: the whole of it, from prompts to tokens, with its compiled kernels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from protocol import serve

from outthink.bench.engine.workloads import FORMATS, Bits
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.cpu.backend import CpuBackend
from outthink.lm.model import Model
from outthink.lm.protocol import LM, Branch
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.opened import MappedWeights, open_model


class Ours:
    """See `protocol.Runner`."""

    def __init__(self, model: str, bits: Bits, threads: int) -> None:
        opened = open_model(model)
        config = opened.config
        self.backend = CpuBackend(
            opened,
            num_pages=(32 * 160 + 1024) // 16,
            threads=threads,
            weight_format=FORMATS[bits],
            kv_format="bfloat16",
            tensors=MappedWeights(opened),
        )
        costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
        engine = Engine(self.backend, opened.tokenizer, costs, config.max_positions)
        self.model = Model(opened, EngineThread(engine))
        self._spent: dict[str, Any] = {}
        self.told = {
            "weight_bytes": self.backend.weight_bytes,
            "settings": {"kv": "bfloat16", "isa": self.backend.isa, "int4 group": 32},
        }

    def decode(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        return asyncio.run(self._decode(self._lm(), prompts, new_tokens))

    def prefill(self, prompt: list[int]) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        return asyncio.run(self._prefill(self._lm(), prompt))

    def branches(self, prompt: list[int], firsts: list[int], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        return asyncio.run(self._branches(self._lm(), prompt, firsts, new_tokens))

    def overhead(self, prompt: list[int], branches: int, new_tokens: int) -> dict[str, float]:
        """Wall seconds of sampling ``branches`` continuations, and those in the model's own steps; how many steps."""
        return asyncio.run(self._overhead(self._lm(temperature=1.0), prompt, branches, new_tokens))

    def spent(self) -> dict[str, Any]:
        """Of the timed part of the last workload: seconds in each stage of the model's steps, and FLOPs billed."""
        return self._spent

    async def _timed(self, lm: LM, work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
        stages, flops, start = self.backend.stage_seconds, lm.ledger.bill.flops, perf_counter()
        result = await work()
        seconds = perf_counter() - start
        after = self.backend.stage_seconds
        self._spent = {
            "stages": {stage: after[stage] - stages[stage] for stage in stages},
            "flops": lm.ledger.bill.flops - flops,
        }
        return seconds, result

    def _lm(self, temperature: float = 0.0) -> LM:
        return self.model.session(sampling=Sampling(temperature=temperature))

    async def _decode(self, lm: LM, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        begun = [(await (await lm.root(prompt)).extend(1, _only(1)))[0] for prompt in prompts]
        seconds, grown = await self._timed(
            lm, lambda: asyncio.gather(*(line.extend(1, _only(new_tokens)) for line in begun))
        )
        tokens = [[*first.tokens, *lines[0].tokens] for first, lines in zip(begun, grown, strict=True)]
        await _close(lm, [*begun, *(line for lines in grown for line in lines)])
        return seconds, tokens

    async def _prefill(self, lm: LM, prompt: list[int]) -> tuple[float, list[list[int]]]:
        async def work() -> list[Branch]:
            return await (await lm.root(prompt)).extend(1, _only(1))

        seconds, [line] = await self._timed(lm, work)
        tokens = [list(line.tokens)]
        await _close(lm, [line])
        return seconds, tokens

    async def _branches(
        self, lm: LM, prompt: list[int], firsts: list[int], new_tokens: int
    ) -> tuple[float, list[list[int]]]:
        async def work() -> list[list[Branch]]:
            root = await lm.root(prompt)
            opened.extend(await root.extend(1, _only(1)))  # computes the prompt, once
            fed = await asyncio.gather(*(root.feed([first]) for first in firsts))
            opened.extend(fed)
            return await asyncio.gather(*(branch.extend(1, _only(new_tokens)) for branch in fed))

        opened: list[Branch] = []
        seconds, grown = await self._timed(lm, work)
        lines = [lines[0] for lines in grown]
        await _close(lm, [*opened, *lines])
        return seconds, [list(line.tokens) for line in lines]

    async def _overhead(self, lm: LM, prompt: list[int], branches: int, new_tokens: int) -> dict[str, float]:
        root = await lm.root(prompt)
        first = (await root.extend(1, _only(1)))[0]
        stats = self.model.engine.stats
        steps, computed = stats.steps, self.backend.forward_seconds
        seconds, lines = await self._timed(lm, lambda: first.extend(branches, _only(new_tokens)))
        await _close(lm, [first, *lines])
        return {
            "seconds": seconds,
            "backend_seconds": self.backend.forward_seconds - computed,
            "steps": stats.steps - steps,
        }


def _only(max_tokens: int) -> Until:
    return Until(max_tokens, ignore_eos=True)


async def _close(lm: LM, branches: list[Branch]) -> None:
    for branch in branches:
        await branch.close()
        if branch.parent is not None:
            await branch.parent.close()  # of siblings, the first closes it


def load(asked: dict[str, Any]) -> Ours:
    """The runner of a ``load`` request."""
    return Ours(asked["model"], asked["bits"], asked["threads"])


if __name__ == "__main__":
    serve(load, ("outthink", "numpy"))
