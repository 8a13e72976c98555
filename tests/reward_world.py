"""A random reward model beside a random policy on one thread, and the dense oracle of what it must say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cpu_cases import make_config, make_model
from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.dense import dense_attend
from outthink.lm.local import LocalBranch
from outthink.lm.model import Model
from outthink.lm.protocol import Branch
from outthink.lm.reward import RewardModel
from outthink.models.checkpoint import LoadedModel
from outthink.models.flops import head_flops, prefill_flops
from outthink.models.transformer import Transformer
from outthink.scheduling import Limits

PROMPT = "add 2 and 3\nthen stop"
STEP = Until(7, stop=("\n", "e", "t"))
LONG = 300  # positions of the reward model


class OtherTokenizer:
    """Joins a byte that is written twice in a row into one token, so that a text's tokens depend on what follows."""

    vocab_size, eos_ids, bos_id, chat_template = 258, (257,), 256, None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        for byte in (b % 128 for b in text.encode()):
            if ids and ids[-1] == byte:
                ids[-1] = byte + 128
            else:
                ids.append(byte)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id % 128]) * (1 + token_id // 128) if token_id < 256 else b""

    def is_special(self, token_id: int) -> bool:
        return token_id >= 256


def make_reward(
    thread: EngineThread, tokenizer: Any, kind: str = "process", pages: int = 200, seed: int = 0, **limits: int
) -> RewardModel:
    """A random reward model on ``thread``, computed by the compiled kernels, which are exact to the last bit."""
    config = make_config(vocab_size=258, reward=kind, max_positions=LONG)
    model = make_model(config, seed)
    with torch.no_grad():
        model.score.weight.mul_(4)
    costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
    engine = Engine(CpuBackend(model, pages, threads=1), tokenizer, costs, LONG, Limits(**limits))
    thread.add(engine)
    return RewardModel(LoadedModel(config, model, tokenizer, Path(f"tiny-{kind}")), thread, engine)


@torch.inference_mode()
def oracle(reward: RewardModel, tokens: Sequence[int]) -> list[float]:
    """The logit after each of ``tokens``, by dense attention over all of them."""
    model: Transformer = reward.loaded.model
    ids = torch.tensor(tokens)
    attend = dense_attend(1, len(tokens), model.config.sliding_windows)
    return model.logits(model(ids, torch.arange(len(tokens)), attend))[:, 0].tolist()


def expected(reward: RewardModel, branch: Branch) -> list[float]:
    """What must be read of ``branch``: after each token with a line feed, then after the last of an ended line."""
    prompt, line = reward.check(PROMPT), line_tokens(reward, branch)
    values = oracle(reward, [*prompt, *line])[len(prompt) :]
    ends = [b"\n" in reward.tokenizer.token_bytes(token) for token in line]
    read = [value for value, end in zip(values, ends, strict=True) if end]
    if values and not ends[-1] and (branch.ended or not read):
        read.append(values[-1])
    return read


def line_tokens(reward: RewardModel, branch: Branch) -> list[int]:
    if isinstance(reward.tokenizer, OtherTokenizer):
        return [*reward.tokenizer.encode(branch.full_text), *([257] if branch.ended else [])]
    tokens: list[int] = []
    while branch.parent is not None:
        tokens = [*branch.tokens, *tokens]
        branch = branch.parent
    return tokens


async def grow(model: Model, seed: int = 0, widths: Sequence[int] = (2, 2, 2)) -> tuple[LocalBranch, list[Branch]]:
    """The root, and all branches below it: every layer extends each branch of the one before."""
    lm = model.session(sampling=Sampling(seed=seed))
    root = await lm.root(PROMPT)
    layer, everyone = [root], []
    for width in widths:
        layer = [child for branch in layer if not branch.ended for child in await branch.extend(width, STEP)]
        everyone += layer
    return root, everyone


def leased(reward: RewardModel) -> int:
    """Pages in use, after the engine's own check."""
    engine = reward.engine
    reward.thread.call(lambda: None)
    reward.thread.call(engine.check_integrity)
    return reward.thread.call(lambda: engine.cache.num_leased(engine.scheduler.leases()))  # type: ignore[return-value]


def ledger(tokens: int | None = None) -> Ledger:
    return Ledger(None if tokens is None else Budget(tokens=tokens))


MakeReward = Callable[..., RewardModel]
