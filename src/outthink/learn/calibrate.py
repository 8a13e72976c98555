"""Rounding layers with what runs through them: one after another, each fed by the rounded ones before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from outthink.kernels.coded import CodedWeight
from outthink.kernels.reference.dense import dense_attend
from outthink.models.tokenizer import Tokenizer
from outthink.models.transformer import Layer, Transformer
from outthink.tasks.suites import get_suite

Round = Callable[[Tensor, Tensor], CodedWeight]
"""From a weight [out, in] and the second moment [in, in] of its inputs to codes."""
Progress = Callable[[int, int, str], None]


@torch.inference_mode()
def round_layers(
    model: Transformer, documents: Sequence[Sequence[int]], rounding: Round, progress: Progress = lambda *_: None
) -> dict[str, CodedWeight]:
    """The codes of every matrix of the layers, by name; ``model`` (float32) is changed to what they stand for.

    ``documents`` are token ids, each no longer than the context.
    """
    hidden = [model.model.embed_tokens(torch.tensor(document)) for document in documents]
    coded: dict[str, CodedWeight] = {}
    for index, layer in enumerate(model.model.layers):
        assert isinstance(layer, Layer)
        progress(index, len(model.model.layers), "rounding layers")
        moments = input_moments(model, layer, hidden)
        for name, module in linears(layer):
            weight = rounding(module.weight, moments[name])
            coded[f"model.layers.{index}.{name}.weight"] = weight
            module.weight = nn.Parameter(weight.dequantize(module.weight.dtype), requires_grad=False)
        hidden = list(_run(model, layer, hidden))
    progress(len(model.model.layers), len(model.model.layers), "rounding layers")
    return coded


def input_moments(model: Transformer, layer: Layer, hidden: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean of x x^T over the inputs x of each matrix of ``layer``: float64 [in, in], by name."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].float()
            sums[name] = sums.get(name, 0) + (x.T @ x).double()

        return add

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears(layer)]
    try:
        for _ in _run(model, layer, hidden):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    positions = sum(len(rows) for rows in hidden)
    return {name: total / positions for name, total in sums.items()}


def linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The matrices of a layer by name."""
    return [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]


def suite_documents(tokenizer: Tokenizer, suite: str, count: int, longest: int, seed: int) -> list[list[int]]:
    """Token ids of ``count`` problems of the training split with their solutions, those of at most ``longest``."""
    made = []
    for problem in get_suite(suite).sample("train", count, seed):
        turns = [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": problem.solution}]
        if tokenizer.chat_template is None:
            text = f"{problem.prompt}\n{problem.solution}"
        else:
            text = tokenizer.render_chat(turns, add_generation_prompt=False)
        made.append(tokenizer.encode(text))
    return [document for document in made if len(document) <= longest]


def text_documents(tokenizer: Tokenizer, text: str, longest: int) -> list[list[int]]:
    """Token ids of a text, in pieces of at most ``longest``."""
    ids = tokenizer.encode(text)
    return [ids[start : start + longest] for start in range(0, len(ids), longest)]


def _run(model: Transformer, layer: Layer, hidden: Iterable[Tensor]) -> Iterable[Tensor]:
    for rows in hidden:
        length = len(rows)
        cos, sin = model.model.rotary(torch.arange(length), rows.dtype)
        yield layer(rows, cos, sin, dense_attend(1, length, model.config.sliding_windows))
