"""What a node of a tree costs where the model costs nothing: strategy, scheduling and pages, beside treequest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outthink.bench.search.judge import TextScore
from outthink.bench.search.plan import OURS, Ground, Json, Part, Way
from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.step import Int32s, StepBatch
from outthink.lm.local import LocalLM
from outthink.reason.solve import think

LETTERS, STEP, DEPTH = 96, 4, 8  # tokens of the vocabulary, of a step; steps of a line
PROMPT, POSITIONS = 64, 256
STRATEGIES = ("ab-mcts", "mcts")
TREEQUEST, IN_PLACE = "treequest", "treequest, tree not copied"


class FreeBackend:
    """Every token is as likely as any other, and nothing is computed."""

    name, page_size, num_pages = "free", 16, 1 << 14

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        """See `Backend.run`."""
        return np.zeros((len(batch.logit_rows), LETTERS), dtype=np.float32)

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        """See `Backend.copy_pages`."""


class Letters:
    """A tokenizer of the visible ASCII characters; none ends a text."""

    vocab_size, eos_ids, chat_template = LETTERS, (), None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """A token for each character."""
        return [ord(letter) - 32 for letter in text]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The characters."""
        return "".join(chr(token + 32) for token in ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The character."""
        return bytes([token_id + 32])

    def is_special(self, token_id: int) -> bool:
        """None is."""
        return False


def open_ways(ground: Ground) -> list[Way]:
    """Ours with two strategies, and treequest's AB-MCTS-A."""
    sizes = (32,) if ground.config.quick else (64, 256, 1024)
    works = {f"{size} nodes": size for size in sizes}
    letters: Any = Letters()
    engine = Engine(FreeBackend(), letters, Costs(lambda start, count: count, 0), POSITIONS)
    thread = EngineThread(engine)
    ground.stack.callback(thread.close)

    def ours(strategy: str) -> Any:
        return lambda work, seed: in_engine(thread, letters, strategy, works[work], seed)

    ways = [Way(OURS if name == STRATEGIES[0] else f"{OURS}, {name}", tuple(works), ours(name)) for name in STRATEGIES]
    theirs = ground.driver(TREEQUEST, "drive_treequest.py", "treequest")
    if theirs is not None:

        def grow(in_place: bool) -> Any:
            return lambda work, seed: _per_node(theirs.ask(op="grow", nodes=works[work], in_place=in_place, seed=seed))

        ways += [Way(TREEQUEST, tuple(works), grow(False)), Way(IN_PLACE, tuple(works), grow(True))]
    return ways


def in_engine(thread: EngineThread, letters: Any, strategy: str, nodes: int, seed: int) -> Json:
    """A tree of about ``nodes`` nodes by ``strategy`` in the engine of ``thread``."""
    lm = LocalLM(thread, letters, Ledger(), Sampling(seed=seed), namespace=f"{seed}/{perf_counter()}")
    common = {"steps": f"tokens:{STEP}", "max_tokens": STEP * DEPTH}
    wanted = {"n": -(-nodes // 4), "width": 4} if strategy == "mcts" else {"n": -(-nodes // (DEPTH // 2))}
    question = Question("a" * PROMPT, lambda text: None)
    start = perf_counter()
    asyncio.run(think(question, lm, strategy, TextScore(), **common, **wanted))
    seconds = perf_counter() - start
    return _per_node({"seconds": seconds, "nodes": sum(thought.tokens > 0 for thought in lm.tree.walk())})


def _per_node(found: Json) -> Json:
    return {**found, "microseconds": 1e6 * found["seconds"] / found["nodes"]}


NODES = Part("nodes", "A node of a tree", open_ways)
