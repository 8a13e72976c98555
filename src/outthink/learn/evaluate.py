"""How many problems a model solves: plain batched generation with a dense cache, for checks during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
import torch
from torch import Tensor

from outthink.learn.tokenizer import ASSISTANT_ID, END_ID, PAD_ID, USER_ID
from outthink.models.transformer import Attend, Transformer
from outthink.tasks.problem import Problem, parse_answer


@dataclass(frozen=True)
class Attempt:
    """A completion of a problem's prompt, and whether its answer is right."""

    problem: Problem
    text: str
    right: bool


def attempt(
    model: Transformer,
    tokenizer: tokenizers.Tokenizer,
    problems: Sequence[Problem],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Attempt]:
    """One completion for each problem, in their order: greedy at temperature 0, else sampled."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [[USER_ID, *tokenizer.encode(p.prompt, add_special_tokens=False).ids, ASSISTANT_ID] for p in problems]
    order = sorted(range(len(problems)), key=lambda i: len(prompts[i]))
    texts: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        completions = generate(model, [prompts[i] for i in members], temperature, generator)
        texts |= {i: tokenizer.decode(ids) for i, ids in zip(members, completions, strict=True)}
    return [_grade(problem, texts[i]) for i, problem in enumerate(problems)]


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], temperature: float, generator: torch.Generator
) -> list[list[int]]:
    """Completions of token ``prompts`` up to their end token, which is left out, or to the end of the context."""
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(p) for p in prompts])
    tokens = torch.tensor([[PAD_ID] * (longest - len(p)) + list(p) for p in prompts])
    cache = DenseCache(model, padding)
    completions: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    logits = cache.run(tokens)
    for _ in range(model.config.max_positions - longest):
        chosen = _choose(logits, temperature, generator)
        keep = (chosen != END_ID).nonzero().flatten()
        for row in keep.tolist():
            completions[alive[row]].append(int(chosen[row]))
        alive = [alive[row] for row in keep.tolist()]
        if not alive:
            break
        if len(keep) < len(chosen):
            cache.keep(keep)
        logits = cache.run(chosen[keep][:, None])
    return completions


class DenseCache:
    """Keys and values of B left-padded sequences of one length; ``padding`` [B] counts the padding of each."""

    def __init__(self, model: Transformer, padding: Tensor) -> None:
        self.model, self.padding, self.length = model, padding, 0
        self.keys: list[Tensor | None] = [None] * model.config.num_layers
        self.values: list[Tensor | None] = [None] * model.config.num_layers

    def run(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` [B, N] and return the logits [B, vocab_size] after the last of them."""
        rows, count = tokens.shape
        place = torch.arange(self.length, self.length + count)
        positions = (place[None, :] - self.padding[:, None]).clamp(min=0)
        hidden = self.model(tokens.flatten(), positions.flatten(), self._attend(rows, place))
        self.length += count
        return self.model.logits(hidden.view(rows, count, -1)[:, -1]).float()

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but ``rows``."""
        self.padding = self.padding[rows]
        self.keys = [k if k is None else k[rows] for k in self.keys]
        self.values = [v if v is None else v[rows] for v in self.values]

    def _attend(self, rows: int, place: Tensor) -> Attend:
        seen = torch.arange(int(place[-1]) + 1)
        visible = (seen[None, None, :] <= place[None, :, None]) & (seen[None, None, :] >= self.padding[:, None, None])
        # A padding position sees itself, for a softmax over nothing is not defined.
        visible = (visible | (seen[None, None, :] == place[None, :, None]))[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.view(rows, len(place), *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
            old_k, old_v = self.keys[layer], self.values[layer]
            k = k if old_k is None else torch.cat((old_k, k), dim=2)
            v = v if old_v is None else torch.cat((old_v, v), dim=2)
            self.keys[layer], self.values[layer] = k, v
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
            return out.transpose(1, 2).flatten(0, 1)

        return attend


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator).flatten()


def _grade(problem: Problem, text: str) -> Attempt:
    answer = parse_answer(text)
    return Attempt(problem, text, answer is not None and problem.check(answer))
