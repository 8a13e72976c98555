"""What is measured: the kinds of work, their prompts, and the goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["decode", "prefill", "branches"]
Bits = Literal["bf16", "int8", "int4"]

BITS: tuple[Bits, ...] = ("bf16", "int8", "int4")
FORMATS: dict[Bits, str] = {"bf16": "bfloat16", "int8": "int8", "int4": "int4"}  # as our kernels call them


@dataclass(frozen=True)
class Workload:
    """One kind of work, timed by the runner that does it.

    "decode": ``batch`` sequences have computed prompts of ``prompt`` tokens; timed are ``new_tokens`` steps over all of
    them. "prefill": timed is one prompt up to the logits of its last position. "branches": timed is a prompt and
    ``batch`` continuations of it that begin with different tokens, ``new_tokens`` each. All draw the likeliest token.
    """

    name: str
    kind: Kind
    batch: int
    prompt: int
    new_tokens: int
    repeats: int = 1  # in a round, each with other prompts

    @property
    def rated_tokens(self) -> int:
        """The tokens whose number by the second is the rate: those of the prompt in "prefill", else the new ones."""
        return self.prompt if self.kind == "prefill" else self.batch * self.new_tokens

    @property
    def steps(self) -> int:
        """How many steps over the whole model the timed part takes at least."""
        return self.new_tokens + (self.kind != "decode")


def workloads(small: bool, quick: bool = False) -> tuple[Workload, ...]:
    """The workloads; for a ``small`` model longer ones and several times, so that a round is no matter of milliseconds.

    ``quick``: a few steps of each kind, to see that everything works.
    """
    if quick:
        return (
            Workload("decode 1", "decode", 1, 8, 4),
            Workload("decode 8", "decode", 8, 8, 4),
            Workload("prefill 64", "prefill", 1, 64, 0),
            Workload("branches 4", "branches", 4, 64, 4),
        )
    steps, repeats = ((384, 128, 96), 5) if small else ((64, 32, 24), 1)
    return (
        Workload("decode 1", "decode", 1, 32, steps[0], repeats),
        Workload("decode 8", "decode", 8, 32, steps[1], repeats),
        Workload("decode 32", "decode", 32, 32, steps[2], repeats),
        Workload("prefill 512", "prefill", 1, 512, 0, repeats),
        Workload("branches 32", "branches", 32, 512, 32, repeats),
    )


def goal(workload: Workload, small: bool) -> float:
    """How many times the best peer's rate at the same bits we mean to reach."""
    if workload.kind == "decode":
        return 2.0 if small or workload.batch > 1 else 1.3
    return 1.5 if workload.kind == "prefill" else 3.0


def request(workload: Workload, vocab_size: int, seed: int) -> dict[str, object]:
    """What a runner is asked: the workload's tokens, drawn from ``seed``, so that no round finds another's in a cache.

    The first 8 ids of the vocabulary are left out: structure is written with such.
    """
    rng = np.random.default_rng([seed, workload.batch, workload.prompt])

    def tokens(count: int) -> list[int]:
        return rng.integers(8, vocab_size, count).tolist()

    if workload.kind == "prefill":
        return {"op": "prefill", "prompt": tokens(workload.prompt)}
    if workload.kind == "branches":
        firsts = rng.choice(np.arange(8, vocab_size), workload.batch, replace=False).tolist()
        return {
            "op": "branches",
            "prompt": tokens(workload.prompt),
            "firsts": firsts,
            "new_tokens": workload.new_tokens,
        }
    prompts = [tokens(workload.prompt) for _ in range(workload.batch)]
    return {"op": "decode", "prompts": prompts, "new_tokens": workload.new_tokens}
